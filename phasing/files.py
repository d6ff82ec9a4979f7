"""Files that appear as a whole or not at all: write beside, fsync, rename."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A path to write to; what lies there becomes `path` at the end, and vanishes if writing fails."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        yield part
        fsync(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    fsync(path.parent)


def appear(part: Path, path: Path) -> None:
    """Give a whole file its name for good. FileExistsError when another has taken that name meanwhile."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: between the look and the renaming a file could be lost
        if path.exists():
            raise FileExistsError(f"{path} exists already") from None
        part.replace(path)
    else:
        part.unlink()
    fsync(path.parent)


def fsync(path: Path) -> None:
    """Wait until a file, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
