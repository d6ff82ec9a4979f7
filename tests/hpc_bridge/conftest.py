"""Lets these tests, and the worker processes that they start, import the helpers that lie beside them."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
