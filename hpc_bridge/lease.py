"""A file that its owner touches as long as it lives; whoever looks at it needs no clock in common with the owner."""

import time
from pathlib import Path

LEASE_S = 15.0
"""How long others go on when an owner shows no more sign of life."""
WATCH_S = 0.25


class Lease:
    """What somebody else has seen of the file so far."""

    def __init__(self, path: Path) -> None:
        """The file need not exist yet."""
        self._path = path
        self._stamp, self._seen_s = 0.0, time.monotonic()

    def is_over(self) -> bool:
        """Whether the file has not been touched for LEASE_S, or is not there any more."""
        try:
            stamp = self._path.stat().st_mtime
        except OSError:
            stamp = self._stamp
        if stamp != self._stamp:
            self._stamp, self._seen_s = stamp, time.monotonic()
        return time.monotonic() > self._seen_s + LEASE_S
