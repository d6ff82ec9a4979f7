"""Compiled engines on disk: whole or not at all, and never trusted without their checksum."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from phasing.files import replaced_file

logger = logging.getLogger(__name__)

_MOST = 16
"""Of one kind; a new model comes with every round, and old ones are not built again."""


def digest_of(content: bytes) -> str:
    """sha256 in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def cache_path(folder: Path | None, kind: str, *facts: object) -> Path | None:
    """Where the artifact that depends on these facts is kept; None without a folder.

    kind: the suffix of its name. facts: everything that makes another artifact, e.g. the model's digest, the device,
    the library's version and the precision.
    """
    if folder is None:
        return None
    key = digest_of("\n".join(str(fact) for fact in facts).encode())[:32]
    return folder / f"{key}.{kind}"


def read_cached(path: Path | None) -> bytes | None:
    """The artifact at path; None when there is none, or when what is there is not what was written."""
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except OSError:
        return None
    checksum, artifact = content[:32], content[32:]
    if hashlib.sha256(artifact).digest() != checksum:
        logger.warning("%s is corrupted: it is made again", path)
        return None
    return artifact


def write_cached(path: Path | None, artifact: bytes | Callable[[], bytes]) -> None:
    """Keep an artifact, and no more than 16 of its kind. A disk that refuses it costs the next build time, no more."""
    if path is None:
        return
    content = artifact if isinstance(artifact, bytes) else artifact()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as part:
            part.write_bytes(hashlib.sha256(content).digest() + content)
        _thin_out(path)
    except OSError as error:
        logger.warning("%s is not kept: %s", path, error)


def kept_folder(path: Path | None) -> Path | None:
    """The folder at path for what a library keeps by itself, one of no more than 16 of its kind.

    None without a path, and where the disk refuses it: what it would have kept is then made anew.
    """
    if path is None:
        return None
    try:
        path.mkdir(parents=True, exist_ok=True)
        os.utime(path)  # the age of a folder is that of its last use
        _thin_out(path)
    except OSError as error:
        logger.warning("%s is not kept: %s", path, error)
        return None
    return path


def _thin_out(newest: Path) -> None:
    ages = []
    for path in set(newest.parent.glob(f"*{newest.suffix}")) - {newest}:
        try:
            ages.append((path.stat().st_mtime, path))
        except FileNotFoundError:  # another process thins out too
            continue
    for _, path in sorted(ages, reverse=True)[_MOST - 1 :]:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # of a folder that another process thins out too, or works in
        else:
            path.unlink(missing_ok=True)
