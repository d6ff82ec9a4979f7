"""`python -m iocs` is `phaseline`."""

import sys

from iocs.cli import main

sys.exit(main())
