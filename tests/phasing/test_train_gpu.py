"""Training on a CUDA GPU: as well as on the CPU, the same for a seed, alone or as one of torchrun's processes."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import make_tiny_pairs

from hpc_bridge.jobs import train as train_job
from hpc_bridge.torchrun import run_shared
from phasing.checkpoint import load_checkpoint
from phasing.engines.hardware import has_gpu
from phasing.geometry import Geometry
from phasing.pairs import PairSet, save_pairs
from phasing.rounds import Report
from phasing.train import TrainSettings, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not has_gpu(), reason="there is no CUDA GPU here")]

MakePairs = Callable[..., PairSet]
SETTINGS = TrainSettings(num_epochs=8, batch_size=8, learning_rate_max=2e-3, device="cuda", augment_overlap=0.9)


def silent(report: Report) -> None:
    pass


@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16", "float16"])
def test_learns_as_on_the_cpu(tiny_pairs: MakePairs, tmp_path: Path, precision: str) -> None:
    on_gpu = train([tiny_pairs()], replace(SETTINGS, precision=precision), None, tmp_path / "gpu", silent)
    on_cpu = train([tiny_pairs()], replace(SETTINGS, device="cpu"), None, tmp_path / "cpu", silent)
    assert on_gpu.val_loss < 0.5 * on_gpu.val_losses[0]
    assert on_gpu.val_loss < 2.0 * on_cpu.val_loss


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_the_same_seed_gives_the_same_weights(tiny_geometry: Geometry, tmp_path: Path, precision: str) -> None:
    large = replace(tiny_geometry, detector_shape_px=(128, 128), crop_px=128)
    pairs = make_tiny_pairs(large, tmp_path, num_frames=400)
    settings = replace(SETTINGS, precision=precision, batch_size=64)
    states = [
        load_checkpoint(train([pairs], settings, None, tmp_path / name, silent).checkpoint_path).state for name in "ab"
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_torchrun_shares_a_round_over_nccl(tiny_pairs: MakePairs, tmp_path: Path) -> None:
    pairs = save_pairs(replace(tiny_pairs(), folder=tmp_path / "pairs"))
    asked = {
        "pairs": [str(pairs.folder)],
        "num_epochs": 2,
        "batch_size": 8,
        "device": "cuda",
        "precision": "float32",
        "learning_rate_max": 2e-3,
    }
    folders = [tmp_path / name for name in ("alone", "shared")]
    for folder in folders:
        folder.mkdir()
    alone = train_job(**asked, output=str(folders[0]))
    shared = run_shared(1, {**asked, "output": str(folders[1])}, folders[1])
    assert shared["losses"][0] == pytest.approx(alone["losses"][0], rel=1e-4)
    assert shared["val_loss"] == pytest.approx(alone["val_loss"], rel=1e-2)
