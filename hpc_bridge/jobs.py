"""The jobs that a flow may call by name: paths and small numbers in, paths and small numbers out.

Each is called in a worker process with the JSON object of the task's ``kwargs`` and reports into the file ``progress``.
"""

import glob
import json
import time
from collections.abc import Iterable
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from hpc_bridge.errors import TaskFailed
from hpc_bridge.ports import Json
from hpc_bridge.progress import ProgressWriter
from hpc_bridge.torchrun import run_shared

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from phasing import retrieve as retrieval
    from phasing import rounds as training
    from phasing import scanfile
    from phasing.pairs import PairSet
    from phasing.ranks import Ranks

Settings = TypeVar("Settings")

JOBS = {
    "reconstruct": "hpc_bridge.jobs:reconstruct",
    "pairs": "hpc_bridge.jobs:pairs",
    "train": "hpc_bridge.jobs:train",
    "export": "hpc_bridge.jobs:export",
}
_KEPT_PREVIEWS = 2
_SHOWN = "shown"
"""What the pictures of held-out frames are called in a round's folder."""


def reconstruct(
    *,
    scan_file: str,
    output: str,
    progress: str | None = None,
    supplement: Json | None = None,
    former: str | None = None,
    half_scans: bool = False,
    **settings: Any,
) -> Json:
    """Retrieve the phase of a scan file into ``output`` (HDF5); ``settings`` are RetrieveSettings' fields.

    ``supplement``: what phasing.supplement.Supplement.to_json gives, how to read scan files of the beamline's own.
    ``former``: a file that an earlier call wrote, to start from. ``half_scans``: judge the result by two further
    reconstructions, from every other frame each; takes as long again.
    Previews of the object's phase, (H, W) float32 rad, appear beside ``output`` as .npy files; a line names each.
    """
    from phasing.quality import quality
    from phasing.reconstruction import Reconstruction
    from phasing.retrieve import RetrieveSettings, retrieve

    begun_s = time.monotonic()
    target = _path("output", output)
    chosen = _settings(RetrieveSettings, settings)
    with ProgressWriter(_optional("progress", progress)) as writer:
        scan = _scan(scan_file, supplement)
        writer.write("started", job="reconstruct", scan_id=scan.scan_id, num_frames=scan.num_frames)
        target.parent.mkdir(parents=True, exist_ok=True)
        for old in _previews(target):  # of an attempt that was killed
            old.unlink()
        start = Reconstruction.load(_path("former", former)) if former else None
        result = retrieve(scan, chosen, partial(_report_retrieval, writer, target), former=start)
        figures = quality(scan, result, chosen, _reconstruct_quietly, half_scans=half_scans)
        result.save(target)
        figures.save(target)
        writer.write("quality", job="reconstruct", **asdict(figures))
        writer.write("ended", job="reconstruct")
    return {
        **asdict(figures),
        "reconstruction": str(target),
        "scan_id": scan.scan_id,
        "num_frames": scan.num_frames,
        "epochs": len(result.error_history),
        "error": result.error_history[-1],
        "seconds": time.monotonic() - begun_s,
    }


def pairs(
    *,
    scan_file: str,
    reconstruction: str,
    output: str,
    progress: str | None = None,
    supplement: Json | None = None,
    judged_by: str | None = None,
    **settings: Any,
) -> Json:
    """Make the training pairs of a scan into the folder ``output``; ``settings`` are PairSettings' fields.

    ``supplement`` as reconstruct takes it. ``judged_by``: a checkpoint whose loss on the new pairs' held-out frames is
    told; what keeps it from being judged is told, too, and no failure.
    """
    from phasing.pairs import PairSettings, make_pairs
    from phasing.reconstruction import Reconstruction

    chosen = _settings(PairSettings, settings)
    folder = _path("output", output)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ProgressWriter(_optional("progress", progress)) as writer:
        writer.write("started", job="pairs")
        scan = _scan(scan_file, supplement)
        found = Reconstruction.load(_path("reconstruction", reconstruction))
        made = make_pairs(scan, found, folder, chosen)
        if judged_by is not None:
            writer.write("judged", job="pairs", **_judged(made, _path("judged_by", judged_by)))
        writer.write("ended", job="pairs")
    return {
        "pairs": str(folder),
        "scan_id": made.scan_id,
        "samples": len(made.unique_id),
        "pixel_size_m": made.pixel_size_m,
    }


def train(*, output: str, device: str = "auto", processes: int = 1, **arguments: Any) -> Json:
    """Train on the union of pair folders into the folder ``output``; see train_alone.

    With ``processes`` other than 1 torchrun shares the round out among so many processes, 0 for one on each GPU.
    """
    folder = _path("output", output)
    folder.mkdir(parents=True, exist_ok=True)
    arguments |= {"output": output, "device": device}
    num_processes = processes or _num_gpus(device)
    return train_alone(**arguments) if num_processes == 1 else run_shared(num_processes, arguments, folder)


def train_alone(
    *,
    pairs: list[str],
    output: str,
    parent_checkpoint: str | None = None,
    progress: str | None = None,
    ranks: "Ranks | None" = None,
    **settings: Any,
) -> Json:
    """Train in this process, alone or as one of ``ranks``; ``settings`` are TrainSettings' fields.

    The result's ``skipped`` says which scans were left out, and why. Labels and predictions of a few held-out frames
    appear beside the checkpoint, (2, K, n, n) float32 rad, as .npy files; a line names each.
    """
    from phasing.train import TrainSettings
    from phasing.train import train as train_network

    chosen = _settings(TrainSettings, settings)
    folder = _path("output", output)
    is_first = ranks is None or ranks.is_first
    with ProgressWriter(_optional("progress", progress) if is_first else None) as writer:
        writer.write("started", job="train")
        sets, unreadable = _pair_sets(pairs)
        for old in _previews(folder / _SHOWN) if is_first else ():  # of an attempt that was killed
            old.unlink()
        parent = _optional("parent_checkpoint", parent_checkpoint)
        report = partial(_report_training, writer, folder / _SHOWN, unreadable)
        result = train_network(sets, chosen, parent, folder, report, ranks=ranks)
        skipped = (*unreadable, *result.skipped)
        writer.write("ended", job="train", skipped=skipped, why=result.ended)
    facts = {name: value for name, value in asdict(result).items() if name != "checkpoint_path"}
    return {**facts, "skipped": skipped, "checkpoint": str(result.checkpoint_path)}


def export(
    *, checkpoint: str, output: str, lineage: str, parent: int | None = None, progress: str | None = None
) -> Json:
    """Export a checkpoint to the ONNX file ``output`` and the draft of its card to ``output`` with .json added."""
    from phasing.export import export_onnx
    from phasing.files import replaced_file

    target = _path("output", output)
    card_path = target.with_name(target.name + ".json")
    with ProgressWriter(_optional("progress", progress)) as writer:
        writer.write("started", job="export")
        card = export_onnx(_path("checkpoint", checkpoint), target, lineage=lineage, parent=parent)
        with replaced_file(card_path) as part:
            part.write_text(json.dumps(card.to_json()), encoding="utf-8")
        writer.write("ended", job="export")
    return {"onnx": str(target), "card": str(card_path), "checkpoint": checkpoint, "digest": card.digest}


def _reconstruct_quietly(scan: "scanfile.Scan", settings: "retrieval.RetrieveSettings") -> "retrieval.Reconstruction":
    from phasing.retrieve import retrieve

    return retrieve(scan, settings, lambda report: None)


def _judged(pairs: "PairSet", checkpoint: Path) -> Json:
    """The loss of a checkpoint on one scan, in rad, or why there is none."""
    from phasing.errors import PhaselineError
    from phasing.train import TrainSettings, judge

    try:
        (loss,) = judge([pairs], TrainSettings(), checkpoint)
    except PhaselineError as error:
        return {"scan_id": pairs.scan_id, "val_loss": None, "why": str(error)}
    return {
        "scan_id": pairs.scan_id,
        "val_loss": loss.val_loss if loss.is_new else None,
        "why": "" if loss.is_new else "it has learned from this scan",
    }


def _report_retrieval(writer: ProgressWriter, output: Path, report: "retrieval.EpochReport") -> None:
    preview = None
    if report.preview_rad is not None:
        preview = str(_save_preview(output, report.epoch, report.preview_rad))
    values = {"epoch": report.epoch, "num_epochs": report.num_epochs, "error": report.error}
    writer.write("epoch", job="reconstruct", **values, preview=preview)


def _save_preview(output: Path, epoch: int, phase_rad: "NDArray[np.float32]") -> Path:
    import numpy as np

    from phasing.files import replaced_file

    path = output.with_name(f"{output.stem}-preview-{epoch:05d}.npy")
    with replaced_file(path) as part, part.open("wb") as file:
        np.save(file, phase_rad)
    for old in _previews(output)[:-_KEPT_PREVIEWS]:
        old.unlink()
    return path


def _previews(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f"{glob.escape(output.stem)}-preview-*.npy"))


def _report_training(
    writer: ProgressWriter, shown: Path, unreadable: tuple[str, ...], report: "training.Report"
) -> None:
    from phasing.train import RoundBegun

    if isinstance(report, RoundBegun):
        writer.write("begun", job="train", **{**asdict(report), "skipped": (*unreadable, *report.skipped)})
        return
    preview = None if report.shown_rad is None else str(_save_preview(shown, report.epoch, report.shown_rad))
    writer.write("epoch", job="train", **report.figures(), preview=preview)


def _pair_sets(paths: object) -> "tuple[list[PairSet], tuple[str, ...]]":
    """The pair sets of all folders, and one line for each that cannot be read. Raises PairsError when none can."""
    from phasing.errors import PairsError
    from phasing.pairs import load_pairs

    sets, unreadable = [], []
    for path in _list("pairs", paths):
        try:
            sets.append(load_pairs(_path("pairs", path)))
        except PairsError as error:
            unreadable.append(str(error))
    if not sets:
        raise PairsError("; ".join(unreadable))
    return sets, tuple(unreadable)


def _num_gpus(device: str) -> int:
    from phasing.compute import device_name

    if device_name(device) == "cpu":
        return 1
    import torch

    return torch.cuda.device_count()


def _settings(kind: type[Settings], values: Json) -> Settings:
    """Build a settings object. Raises TaskFailed naming what is unknown or of the wrong type."""
    known = {field.name: getattr(kind, field.name) for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(values.keys() - known.keys()):
        raise TaskFailed(f"unknown setting {', '.join(unknown)} (known: {', '.join(known)})")
    for name, value in values.items():
        if not _fits(value, known[name]):
            raise TaskFailed(f"the setting {name} cannot be {value!r}")
    return kind(**values)


def _fits(value: object, default: object) -> bool:
    """Whether a JSON value may stand where this default stands; numbers where the default is None."""
    if default is None or isinstance(default, float):
        return (value is None and default is None) or (isinstance(value, int | float) and not isinstance(value, bool))
    return type(value) is type(default)


def _scan(path: str, supplement: object) -> "scanfile.Scan":
    from phasing.scanfile import read_scan
    from phasing.supplement import Supplement

    if supplement is not None and not isinstance(supplement, dict):
        raise TaskFailed(f"supplement is not a JSON object: {supplement!r}")
    return read_scan(_path("scan_file", path), None if supplement is None else Supplement.from_json(supplement))


def _path(name: str, value: object) -> Path:
    if not isinstance(value, str) or not value:
        raise TaskFailed(f"{name} is not a path: {value!r}")
    return Path(value)


def _optional(name: str, value: object) -> Path | None:
    return None if value is None else _path(name, value)


def _list(name: str, value: object) -> Iterable[object]:
    if not isinstance(value, list) or not value:
        raise TaskFailed(f"{name} is not a list of paths: {value!r}")
    return value
