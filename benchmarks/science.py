"""What training is for: live maps of scans that no model has seen, by the number of scans that it has learned from."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks import train_pairs
from benchmarks.engine import cores
from benchmarks.report import Figure
from phasing.checkpoint import Checkpoint, load_checkpoint
from phasing.compare import map_correlation
from phasing.convert import tike_to_scan
from phasing.frames import Frame
from phasing.network import load_network
from phasing.pairs import PairSet, make_pairs
from phasing.retrieve import RetrieveSettings, retrieve
from phasing.ring import ring_correlation
from phasing.scanfile import Scan, ScanWriter, read_scan
from phasing.stitch import StitchedMap, Stitcher, patch_weight
from phasing.train import TrainSettings, judge, train

STAR = "siemens-star-small.npz.bz2"
_SETTINGS = TrainSettings(num_epochs=12, batch_size=16, shown_frames=0, threads=cores())
_BATCH = 64


@dataclass(frozen=True, eq=False)
class Material:
    """Scans to learn from, one after the other, and one that is never learned from; how all are reconstructed."""

    seen: Sequence[Scan]
    unseen: Scan
    retrieval: RetrieveSettings


def simulated(folder: Path, *, num_scans: int = 4, num_frames: int = 600) -> Material:
    """Scans of other regions of the simulated sample, 64 x 64 pixels of 26 nm."""
    folder.mkdir(parents=True)
    scans = [_written(folder, number, num_frames) for number in range(num_scans + 1)]
    return Material(scans[:-1], scans[-1], RetrieveSettings(num_epochs=25, batch_size=50, defocus_m=-150e-6))


def star(folder: Path) -> Material | None:
    """Quarters of the measured Siemens star, of which the last is never learned from; None without the data."""
    source = Path(os.environ.get("PHASELINE_DATA", "")) / STAR
    if not source.is_file():
        return None
    folder.mkdir(parents=True)
    path = tike_to_scan(source, folder / "star.h5", energy_ev=8800.0, distance_m=2.0, pixel_size_m=75e-6)
    scan = read_scan(path)
    y_m, x_m = scan.position_m.T
    quarter = 2 * (y_m > np.median(y_m)) + (x_m > np.median(x_m))
    parts = [scan.part(np.flatnonzero(quarter == k)) for k in range(4)]
    return Material(parts[:-1], parts[-1], RetrieveSettings(num_epochs=60, batch_size=20))


def keys(name: str) -> tuple[str, ...]:
    """The figures of one kind of material."""
    return tuple(f"{key}_{name}" for key in ("val_mae", "map_correlation_unseen", "ring_half_unseen"))


def measure(name: str, make: Callable[[Path], Material | None], folder: Path) -> list[Figure]:
    """Losses and maps of one kind of material, as figures whose keys end in its name."""
    loss_key, correlation_key, ring_key = keys(name)
    material = make(folder)
    if material is None:
        return [Figure(key, None, "", note="PHASELINE_DATA does not name the data") for key in keys(name)]
    truth = retrieve(material.unseen, material.retrieval, lambda _: None)
    unseen = make_pairs(material.unseen, truth, folder / "unseen")
    seen: list[PairSet] = []
    found: dict[str, list[float]] = {key: [] for key in keys(name)}
    parent: Path | None = None
    for number, scan in enumerate(material.seen):
        made = retrieve(scan, material.retrieval, lambda _: None)
        seen.append(make_pairs(scan, made, folder / f"pairs-{number}"))
        parent = train(seen, _SETTINGS, parent, folder / f"round-{number}", lambda _: None).checkpoint_path
        (loss,) = judge([unseen], _SETTINGS, parent)
        live, reconstructed = stitched(load_checkpoint(parent), unseen), truth.phase_map()
        found[loss_key].append(loss.val_loss)
        found[correlation_key].append(map_correlation(live, reconstructed))
        found[ring_key].append(ring_correlation(live, reconstructed).resolution_m * 1e9)
    return [
        Figure(key, values[-1], unit, spread=(min(values), max(values)), detail={"by_number_of_scans": values})
        for (key, values), unit in zip(found.items(), ("rad", "1", "nm"), strict=True)
    ]


def stitched(checkpoint: Checkpoint, pairs: PairSet) -> StitchedMap:
    """The map that the edge would show of these frames."""
    network = load_network(checkpoint.state)
    weight = patch_weight(checkpoint.probe_intensity, "probe")
    stitcher = Stitcher(pairs.geometry.frame_px, pairs.pixel_size_m, weight)
    counts = torch.from_numpy(np.array(pairs.counts))[:, None] * checkpoint.counts_scale
    with torch.inference_mode():
        phases = torch.cat([network(part) for part in counts.split(_BATCH)])[:, 0].numpy()
    for phase_rad, (y_m, x_m) in zip(phases, pairs.position_m.tolist(), strict=True):
        stitcher.add(phase_rad, (y_m, x_m))
    found = stitcher.map()
    assert found is not None, "there are frames"
    return found


def _written(folder: Path, number: int, num_frames: int) -> Scan:
    scan = train_pairs.simulated(number, num_frames, 64)
    with ScanWriter(folder / f"{number}.h5", f"scan-{number}", scan.geometry, dtype=np.dtype(np.uint16)) as writer:
        for k, counts in enumerate(scan.frames()):
            y_m, x_m = scan.position_m[k].tolist()
            writer.append(Frame(k + 1, 1e9 + k, f"scan-{number}", counts, (y_m, x_m)))
    return read_scan(writer.path)
