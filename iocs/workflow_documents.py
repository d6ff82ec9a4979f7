"""The input documents of the two flows, and where on the compute side everything lies."""

import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_bridge.ports import Json
from phasing.errors import PhaselineError

BEAMLINE, COMPUTE = "beamline", "compute"
"""Names of the collections that files are copied between."""
RECONSTRUCT_ENDPOINT, TRAIN_ENDPOINT = "reconstruct", "train"
"""Names of the endpoints that jobs run on: a reconstruction never waits for a training round."""


class OutsideRoot(PhaselineError):
    """A scan file that does not lie where scans may be taken from."""


@dataclass(frozen=True)
class Layout:
    """Folders below the root, all absolute."""

    scans: Path
    compute: Path
    registry: Path
    journal: Path

    @classmethod
    def below(cls, root: Path, scans: Path) -> "Layout":
        """The layout below a root; the folders are made."""
        root = root.resolve()
        layout = cls(scans, root / "compute", root / "registry", root / "journal")
        for folder in (layout.scans, layout.compute, layout.registry, layout.journal):
            folder.mkdir(parents=True, exist_ok=True)
        return layout

    def relative_scan(self, scan_file: Path) -> str:
        """A scan file's path in the beamline's collection; OutsideRoot when it lies elsewhere."""
        path = scan_file.resolve()
        if not path.is_relative_to(self.scans):
            raise OutsideRoot(f"{scan_file} is not below {self.scans}: set workflow.scans to where scans lie")
        return f"/{path.relative_to(self.scans)}"

    def progress(self, run_id: str, job: str) -> Path:
        """The file in which a run's job tells how far it is."""
        return self.compute / "progress" / f"{run_id}-{job}.jsonl"


def new_id(name: str) -> str:
    """An id for a run or round that people can tell apart: a name and eight random digits."""
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name)[:40]}-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Submission:
    """A scan to be run: its file, its id, and the lineage that its experiment and geometry belong to."""

    file: Path
    scan_id: str
    lineage: str


def run_document(layout: Layout, run_id: str, scan: Submission, settings: Mapping[str, Any]) -> Json:
    """The input of a scan's run; `settings` are those of phase retrieval."""
    copied = f"/scans/{run_id}.h5"
    return {
        "scan": {"file": str(scan.file), "scan_id": scan.scan_id, "lineage": scan.lineage},
        "source": {"endpoint": BEAMLINE, "path": layout.relative_scan(scan.file)},
        "compute": {"endpoint": RECONSTRUCT_ENDPOINT, "collection": COMPUTE, "path": copied},
        "reconstruct": {
            "scan_file": f"{layout.compute}{copied}",
            "output": str(layout.compute / "reconstructions" / f"{run_id}.h5"),
            "progress": str(layout.progress(run_id, "reconstruct")),
            **settings,
        },
        "pairs": {
            "output": str(layout.compute / "pairs" / run_id),
            "pixel_size_m": None,
            "progress": str(layout.progress(run_id, "pairs")),
        },
    }


@dataclass(frozen=True)
class Parent:
    """The model that a round starts from."""

    version: int
    checkpoint: Path


def round_document(
    layout: Layout,
    round_id: str,
    pairs: Sequence[str],
    parent: Parent | None,
    lineage: str,
    settings: Mapping[str, Any],
) -> Json:
    """The input of a training round on the union of `pairs`; `settings` are those of training."""
    folder = layout.compute / "rounds" / round_id
    return {
        "compute": {"endpoint": TRAIN_ENDPOINT},
        "train": {
            "pairs": list(pairs),
            "parent_checkpoint": os.fspath(parent.checkpoint) if parent else None,
            "output": str(folder),
            "progress": str(layout.progress(round_id, "train")),
            **settings,
        },
        "export": {
            "output": str(folder / "model.onnx"),
            "lineage": lineage,
            "parent": parent.version if parent else None,
            "progress": str(layout.progress(round_id, "export")),
        },
        "register": {"lineage": lineage},
    }
