"""What the campaign is judged by: journals, progress files, the registry and the process table."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from phasing.errors import ModelError
from phasing.store import Registry


@dataclass
class Verdict:
    """Everything that is wrong; empty lists are what the campaign is for."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    orphans: list[int] = field(default_factory=list)


def open_work(root: Path) -> str:
    """What a leg still has to do; empty when all is done."""
    with closing(_journal(root)) as journal:
        rows = journal.execute("SELECT run_id, state, status FROM run WHERE status IN ('QUEUED', 'ACTIVE')").fetchall()
    return ", ".join(f"{run} in {state}" for run, state, _ in rows)


def judge(folder: Path, scans: list[str], verdict: Verdict) -> None:
    """Every scan has one run, which succeeded; each attempt of a job began at most once; every model is whole."""
    root = folder / "data"
    with closing(_journal(root)) as journal:
        runs = journal.execute("SELECT run_id, label, status, message FROM run WHERE kind='run'").fetchall()
        actions = journal.execute("SELECT run_id, state FROM action").fetchall()
    by_scan = Counter(label for _, label, _, _ in runs)
    ended = {label: (status, message) for _, label, status, message in runs}
    verdict.lost += [
        f"{scan}: {ended.get(scan, 'no run')}" for scan in scans if ended.get(scan, ("",))[0] != "SUCCEEDED"
    ]
    verdict.doubled += [f"{scan} has {number} runs" for scan, number in by_scan.items() if number > 1]
    attempts = Counter(actions)
    for path in folder.rglob("progress/*.jsonl"):
        run_id, _, job = path.stem.rpartition("-")
        begun = sum(line.get("event") == "started" for line in _lines(path))
        allowed = attempts[run_id, job.capitalize()]
        if begun > allowed:
            verdict.doubled.append(f"{job} of {run_id} began {begun} times in {allowed} attempts")
    _judge_registry(root / "registry", verdict)


def orphans(marker: str) -> list[int]:
    """Processes that carry the campaign's mark in their environment."""
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdecimal() and marker.encode() in (path / "environ").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def _judge_registry(folder: Path, verdict: Verdict) -> None:
    registry = Registry(folder)
    for entry in registry.versions():
        version = entry.card.version
        try:
            registry.onnx_bytes(version)
            registry.checkpoint_path(version)
        except ModelError as error:
            verdict.lost.append(f"version {version} of the registry: {error}")


def _journal(root: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{root / 'journal' / 'flows.sqlite'}?mode=ro", uri=True, timeout=30)


def _lines(path: Path) -> list[dict[str, object]]:
    found = []
    for line in path.read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue  # cut by a kill
    return found
