"""Inference engines behind one protocol: prepared frames in, phase out.

All release the interpreter's lock while they compute. Their libraries are imported when one is built.
"""

from phasing.engines.build import build_engine
from phasing.engines.hardware import engine_names_available
from phasing.engines.protocol import Engine, EngineOptions, FloatArray

__all__ = ["Engine", "EngineOptions", "FloatArray", "build_engine", "engine_names_available"]
