"""A training round that several processes share: what they learn, how they fail, and how they end."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.processes import command_line, descendants
from hpc_bridge.errors import TaskFailed
from hpc_bridge.jobs import train
from hpc_bridge.progress import ProgressReader
from phasing.geometry import Geometry
from phasing.pairs import PairSet, save_pairs

PATIENCE_S = 600.0
GEOMETRY = Geometry(energy_ev=1e4, distance_m=1.0, pixel_size_m=5e-5, detector_shape_px=(16, 16), crop_px=16)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """A folder of 83 pairs whose phase can be read off the frame's brightness; 83 is no multiple of any batch."""
    generator = np.random.default_rng(0)
    level = generator.uniform(0.2, 1.0, (83, 1, 1))
    counts = (level * generator.uniform(80.0, 120.0, (83, 16, 16))).astype(np.float32)
    mask = np.ones(counts.shape, bool)
    mask[::2, :3] = False
    made = PairSet(
        folder=tmp_path / "pairs",
        scan_id="scan",
        counts=counts,
        phase_rad=np.broadcast_to((2.0 * level - 1.2).astype(np.float32), counts.shape),
        mask=mask,
        weight=generator.uniform(0.1, 1.0, (16, 16)).astype(np.float32),
        frame_counts=counts.sum(axis=(1, 2), dtype=np.float64),
        unique_id=np.arange(83),
        position_m=np.zeros((83, 2)),
        pixel_size_m=26e-9,
        geometry=GEOMETRY,
        symmetry=(1.0,) * 8,
    )
    return save_pairs(replace(made)).folder


def settings(pairs: Path, folder: Path, processes: int, batch_size: int, num_epochs: int = 3) -> dict[str, object]:
    """The same round, whoever shares it: as many frames a step in all."""
    return {
        "pairs": [str(pairs)],
        "output": str(folder),
        "progress": str(folder / "progress.jsonl"),
        "processes": processes,
        "batch_size": batch_size,
        "num_epochs": num_epochs,
        "device": "cpu",
        "precision": "float32",
        "learning_rate_max": 2e-3,
        "threads": 1,
    }


def test_processes_learn_together_what_one_learns_alone(pairs: Path, tmp_path: Path) -> None:
    alone = train(**settings(pairs, tmp_path / "alone", 1, 16))
    shared = train(**settings(pairs, tmp_path / "shared", 2, 8))
    # one epoch of the same steps; after that, Adam makes much of what the order of a sum changes
    assert shared["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-4)
    assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-2)
    assert shared["val_losses"] == pytest.approx(alone["val_losses"], rel=1e-2)
    assert shared["num_samples"] == alone["num_samples"]
    events = [line["event"] for line in ProgressReader(tmp_path / "shared/progress.jsonl").read()]
    assert events == ["started", "begun", "epoch", "epoch", "epoch", "ended"], "one of them tells"


def test_a_shared_round_goes_on_where_it_was_killed(pairs: Path, tmp_path: Path) -> None:
    whole = train(**settings(pairs, tmp_path / "whole", 2, 8, num_epochs=40))
    folder = tmp_path / "killed"
    asked = tmp_path / "asked.json"
    asked.write_text(json.dumps(settings(pairs, folder, 2, 8, num_epochs=40)))
    script = f"import json; from hpc_bridge.jobs import train; train(**json.load(open({str(asked)!r})))"
    job = subprocess.Popen([sys.executable, "-c", script])
    reader = ProgressReader(folder / "progress.jsonl")
    seen: list[str] = []
    until_s = time.monotonic() + PATIENCE_S
    while seen.count("epoch") < 5:
        assert job.poll() is None and time.monotonic() < until_s, seen
        seen += [line["event"] for line in reader.read()]
        time.sleep(0.01)
    started = descendants(job.pid)
    assert len(started) >= 3, "torchrun and two trainers"
    job.kill()
    job.wait()
    while left := list(filter(command_line, started)):
        assert time.monotonic() < until_s, left
        time.sleep(0.01)
    result = train(**settings(pairs, folder, 2, 8, num_epochs=40))
    begun = [line for line in ProgressReader(folder / "progress.jsonl").read() if line["event"] == "begun"]
    assert len(begun[-1]["losses"]) >= 5
    assert result["val_losses"] == pytest.approx(whole["val_losses"], rel=1e-6)


def test_the_reason_of_a_failure_is_that_of_the_process(pairs: Path, tmp_path: Path) -> None:
    wild = settings(pairs, tmp_path / "wild", 2, 8) | {"learning_rate_min": 1e30, "learning_rate_max": 1e30}
    with pytest.raises(TaskFailed, match="loss is nan: lower the learning rate"):
        train(**wild)
    unknown = settings(pairs, tmp_path / "unknown", 2, 8) | {"colour": "red"}
    with pytest.raises(TaskFailed, match="unknown setting colour"):
        train(**unknown)
