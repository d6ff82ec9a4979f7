"""Reading files of the compute side while a job writes them: progress lines and previews."""

from pathlib import Path
from typing import Protocol


class FileReader(Protocol):
    """Reads bytes of a file that a job wrote."""

    def read(self, path: str, offset: int = 0) -> bytes:
        """Return what stands in the file from ``offset`` on; nothing where it is shorter.

        May wait for a network. Raises FileNotFoundError, and BackendUnavailable when the compute side cannot be asked.
        """


class LocalFiles:
    """Files that this machine sees under their own paths."""

    def read(self, path: str, offset: int = 0) -> bytes:
        """Return what stands in the file from ``offset`` on. Raises OSError."""
        with Path(path).open("rb") as file:
            file.seek(offset)
            return file.read()
