"""What makes way when room is short or its time is over: copies, pairs and checkpoints, the oldest first."""

import shutil
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

DAY_S = 86_400.0


@dataclass(frozen=True)
class Rule:
    """How much of one kind is kept: everything in the folders ``PROPOSAL/SAMPLE/kind``; None sets no limit."""

    kind: str
    quota_bytes: float | None = None
    keep_s: float | None = None


@dataclass(frozen=True)
class Tidied:
    """What was removed by one rule."""

    kind: str
    number: int
    freed_bytes: int


@dataclass(frozen=True)
class _Unit:
    path: Path
    changed_s: float
    size_bytes: int


def tidy(root: Path, rules: Iterable[Rule], *, in_use: Collection[str]) -> list[Tidied]:
    """Remove what the rules do not keep below a root, and return what that was.

    ``in_use`` are ids of runs and rounds whose files stay. A file that vanishes meanwhile is no matter; one that cannot
    be removed is left for the next time.
    """
    return [found for rule in rules if (found := _apply(root, rule, in_use)).number]


def _apply(root: Path, rule: Rule, in_use: Collection[str]) -> Tidied:
    units = sorted(_units(root, rule.kind), key=lambda unit: unit.changed_s)
    total_bytes = sum(unit.size_bytes for unit in units)
    number = freed_bytes = 0
    for unit in units:
        is_old = rule.keep_s is not None and time.time() - unit.changed_s > rule.keep_s
        is_much = rule.quota_bytes is not None and total_bytes > rule.quota_bytes
        if not (is_old or is_much):
            continue
        if any(unit.path.name.startswith(name) for name in in_use) or not _removed(unit.path):
            continue
        number, freed_bytes = number + 1, freed_bytes + unit.size_bytes
        total_bytes -= unit.size_bytes
    return Tidied(rule.kind, number, freed_bytes)


def _units(root: Path, kind: str) -> Iterable[_Unit]:
    for path in root.glob(f"*/*/{kind}/*"):
        try:
            files = [file.stat() for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path.stat()]
        except OSError:
            continue
        if files:
            changed_s = max(found.st_mtime for found in files)
            yield _Unit(path, changed_s, sum(found.st_size for found in files))


def _removed(path: Path) -> bool:
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    except OSError:
        return not path.exists()
    return True
