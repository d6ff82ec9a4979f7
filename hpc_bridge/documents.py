"""The input documents of the two shipped flows: every path and name that their states need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_bridge.ports import Json
from hpc_bridge.site import Site, items
from phasing.rounds import CHECKPOINT_NAME, LOSSES_NAME

if TYPE_CHECKING:
    from phasing.supplement import Supplement


@dataclass(frozen=True)
class Submission:
    """A scan to be run: its file with all others that belong to it, its id, and the lineage that it belongs to.

    set_up: the lineage without proposal and sample. shared: whether models of other proposals may learn from it.
    supplement: how the file is to be read, where it does not say all itself; its position file is carried along.
    """

    file: Path
    scan_id: str
    lineage: str
    siblings: tuple[Path, ...] = ()
    supplement: "Supplement | None" = None
    set_up: str = ""
    shared: bool = False


def progress_path(run_id: str, job: str) -> str:
    """The file, within the compute side's folder, in which a run's job tells how far it is."""
    return f"progress/{run_id}-{job}.jsonl"


def run_document(
    site: Site,
    run_id: str,
    scan: Submission,
    settings: Mapping[str, Any],
    pair_settings: Mapping[str, Any] | None = None,
) -> Json:
    """The input of a scan's run; `settings` are those of phase retrieval. Raises OutsideFolder."""
    compute, results = site.compute, site.results
    folder = f"scans/{run_id}"
    copies = {site.scans.of(file): f"{folder}/{file.name}" for file in (scan.file, *scan.siblings)}
    supplement = scan.supplement
    if supplement is not None and supplement.position_file is not None:
        # in a folder of its own, for it may be called like the scan's file
        there = f"{folder}/positions/{supplement.position_file.name}"
        copies[site.scans.of(supplement.position_file)] = there
        supplement = replace(supplement, position_file=compute.on_disk(there))
    reading = {} if supplement is None else {"supplement": supplement.to_json()}
    copied = str(compute.on_disk(f"{folder}/{scan.file.name}"))
    reconstruction = f"reconstructions/{run_id}.h5"
    return site.head(run_id) | {
        "scan": {
            "file": str(scan.file),
            "scan_id": scan.scan_id,
            "lineage": scan.lineage,
            "set_up": scan.set_up,
            "shared": scan.shared,
        },
        "transfer": items(site.scans, compute, copies),
        "reconstruct": {
            "scan_file": copied,
            "output": str(compute.on_disk(reconstruction)),
            "progress": str(compute.on_disk(progress_path(run_id, "reconstruct"))),
            **reading,
            **settings,
        },
        "pairs": {
            "scan_file": copied,
            "reconstruction": str(compute.on_disk(reconstruction)),
            "output": str(compute.on_disk(f"pairs/{run_id}")),
            "progress": str(compute.on_disk(progress_path(run_id, "pairs"))),
            **reading,
            **(pair_settings or {}),
        },
        "return": items(compute, results, {reconstruction: reconstruction}),
        "results": {"reconstruction": str(results.on_disk(reconstruction))},
    }


@dataclass(frozen=True)
class Parent:
    """The model that a round starts from."""

    version: int
    checkpoint: Path


def round_document(
    site: Site,
    round_id: str,
    pairs: Sequence[str],
    parent: Parent | None,
    lineage: str,
    settings: Mapping[str, Any],
    inbox: Path,
) -> Json:
    """The input of a training round on the union of `pairs`; `settings` are those of training.

    `inbox` is where the round asks the workflow IOC to register its model, when the IOC does not run it itself.
    """
    compute, results = site.compute, site.results
    folder = f"rounds/{round_id}"
    parts = {"onnx": "model.onnx", "card": "model.onnx.json", "checkpoint": CHECKPOINT_NAME}
    sent, parent_checkpoint = _parent_checkpoint(site, folder, parent)
    return site.head(round_id) | {
        "send": sent,
        "train": {
            "pairs": list(pairs),
            "parent_checkpoint": parent_checkpoint,
            "output": str(compute.on_disk(folder)),
            "progress": str(compute.on_disk(progress_path(round_id, "train"))),
            **settings,
        },
        "export": {
            "checkpoint": str(compute.on_disk(f"{folder}/{CHECKPOINT_NAME}")),
            "output": str(compute.on_disk(f"{folder}/{parts['onnx']}")),
            "lineage": lineage,
            "parent": parent.version if parent else None,
            "progress": str(compute.on_disk(progress_path(round_id, "export"))),
        },
        "return": items(
            compute, results, {f"{folder}/{name}": f"{folder}/{name}" for name in (*parts.values(), LOSSES_NAME)}
        ),
        "register": {
            "request": round_id,
            "inbox": str(inbox),
            "lineage": lineage,
            **{part: str(results.on_disk(f"{folder}/{name}")) for part, name in parts.items()},
        },
    }


def _parent_checkpoint(site: Site, folder: str, parent: Parent | None) -> tuple[list[Json], str | None]:
    """What has to be sent for the parent's weights to be where training runs, and what they are called there."""
    if parent is None:
        return [], None
    if site.shared:
        return [], str(parent.checkpoint)
    there = f"{folder}/parent.pt"
    sent = items(site.registry, site.compute, {site.registry.of(parent.checkpoint): there})
    return sent, str(site.compute.on_disk(there))
