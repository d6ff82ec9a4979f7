"""The other files that a scan file needs: those that it links to, and those that are numbered like it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import h5py

from phasing.errors import ScanFileError

_SELF = "."
# What h5py raises for a file that is none, or whose bytes contradict one another.
_DAMAGED = (OSError, RuntimeError, KeyError, ValueError)


def sibling_files(path: Path, numbered: str = "") -> tuple[Path, ...]:
    """All files beside an HDF5 file without which its frames cannot be read, each once and not the file itself.

    Those that it links to (external links, virtual datasets, external storage), also by way of one another, and those
    that are called as `numbered` says: `{stem}` stands for the file's name without suffix, `*` for a number.
    Raises ScanFileError (without the file's name) naming those that are missing, lie in another folder, cannot be
    opened, or whose numbers leave a gap.
    """
    found: dict[Path, None] = {}
    waiting = [path, *numbered_files(path, numbered)]
    while waiting:
        file = waiting.pop(0)
        if file not in found:
            found[file] = None
            if h5py.is_hdf5(file):  # external storage is bytes alone
                waiting += sorted(_linked(file))
    del found[path]
    return tuple(found)


def numbered_files(path: Path, numbered: str) -> tuple[Path, ...]:
    """The files called as `numbered` says in the order of their numbers, from 0 or 1; raises as sibling_files does."""
    if not numbered:
        return ()
    begin, star, end = numbered.replace("{stem}", path.stem).partition("*")
    if not star:
        raise ScanFileError(f"numbered files need a * where the number stands, not {numbered!r}")
    pattern = re.compile(re.escape(begin) + r"(\d+)" + re.escape(end))
    found: dict[int, tuple[int, Path]] = {}
    for file in path.parent.iterdir():
        match = pattern.fullmatch(file.name)
        if match and file != path:
            found[int(match[1])] = (len(match[1]), file)
    missing = [number for number in range(0 if 0 in found else 1, max(found, default=0)) if number not in found]
    if missing:
        width, _ = found[max(found)]
        names = ", ".join(f"{begin}{number:0{width}}{end}" for number in missing[:3])
        raise ScanFileError(f"{len(missing)} of its numbered files are missing: {names}")
    return tuple(found[number][1] for number in sorted(found))


def _linked(path: Path) -> set[Path]:
    """The files that one file names; raises ScanFileError unless all lie beside it."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            names = set(_names(file, set()))
    except _DAMAGED as error:
        raise ScanFileError(f"{path.name} cannot be opened: {error}") from error
    files = set()
    for name in sorted(names - {_SELF, path.name}):
        if Path(name).name != name:
            raise ScanFileError(
                f"{path.name} links to {name}: linked files must lie in its own folder to be carried along"
            )
        files.add(path.parent / name)
    missing = sorted(file.name for file in files if not file.is_file())
    if missing:
        raise ScanFileError(f"files that {path.name} links to are missing: {', '.join(missing)}")
    return files


def _names(group: h5py.Group, seen: set[int]) -> Iterator[str]:
    """The file names in a group and below it, hard links being followed once."""
    for name in group:
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.ExternalLink):
            yield link.filename
        elif isinstance(link, h5py.HardLink):
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address not in seen:
                seen.add(address)
                yield from _names(item, seen) if isinstance(item, h5py.Group) else _sources(item)


def _sources(item: object) -> Iterator[str]:
    if isinstance(item, h5py.Dataset):
        if item.is_virtual:
            yield from (source.file_name for source in item.virtual_sources())
        yield from (name for name, _, _ in item.external or ())
