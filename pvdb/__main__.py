"""`python -m pvdb` prints the reference of all PVs; with a file as its argument, writes it there."""

import sys
from pathlib import Path

from pvdb import IOCS
from pvdb.reference import page

if len(sys.argv) > 1:
    Path(sys.argv[1]).write_text(page(IOCS), encoding="utf-8")
else:
    sys.stdout.write(page(IOCS))
