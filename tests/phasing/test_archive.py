"""Models carried from one registry to another, and weights that came from elsewhere."""

import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from phasing.archive import export_model, import_model
from phasing.checkpoint import load_checkpoint
from phasing.errors import ModelError
from phasing.geometry import Geometry
from phasing.network import PtychoNN
from phasing.published import published_checkpoint
from phasing.store import ModelState, Registry

FullDisk = Callable[[int], Any]


@pytest.fixture
def registry(tmp_path: Path, exported: Any) -> Registry:
    """One model and its child, which is active."""
    made = Registry(tmp_path / "here")
    made.publish(exported.onnx_path, exported.checkpoint_path, exported.draft)
    child = exported.onnx_path.read_bytes()
    path = tmp_path / "child.onnx"
    path.write_bytes(child)
    made.publish(path, exported.checkpoint_path, replace(exported.draft, parent=1))
    made.set_active(2)
    return made


def test_an_exported_model_comes_back_as_a_candidate(registry: Registry, tmp_path: Path) -> None:
    there = Registry(tmp_path / "there")
    export_model(registry, 2, tmp_path / "model.zip")
    card = import_model(there, tmp_path / "model.zip")
    assert (card.version, card.parent) == (1, None)
    assert there.entry(1).state is ModelState.CANDIDATE
    assert there.onnx_bytes(1) == registry.onnx_bytes(2)
    weights, theirs = registry.checkpoint_path(2), there.checkpoint_path(1)
    assert weights is not None
    assert theirs is not None
    assert weights.read_bytes() == theirs.read_bytes()
    same = replace(registry.card(2), version=1, parent=None)
    assert card.to_json() == same.to_json()
    assert import_model(there, tmp_path / "model.zip").parent == 1, "the same network is the parent here, too"


@pytest.mark.parametrize("damage", ["cut short", "no archive", "another network", "no manifest"])
def test_a_damaged_archive_is_refused_and_leaves_the_registry_as_it_was(
    registry: Registry, tmp_path: Path, damage: str
) -> None:
    path = tmp_path / "model.zip"
    export_model(registry, 2, path)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:-3000])
    elif damage == "no archive":
        path.write_bytes(b"no archive")
    else:
        with zipfile.ZipFile(path) as archive:
            content = {name: archive.read(name) for name in archive.namelist()}
        if damage == "another network":
            content["model.onnx"] = b"another"
        else:
            del content["manifest.json"]
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    before = registry.standing()
    with pytest.raises(ModelError, match=r"model\.zip"):
        import_model(registry, path)
    assert registry.standing() == before


def test_an_archive_that_the_disk_does_not_take_is_told(
    registry: Registry, tmp_path: Path, full_disk: FullDisk
) -> None:
    with full_disk(100_000), pytest.raises(ModelError, match=r"model\.zip cannot be written"):
        export_model(registry, 2, tmp_path / "model.zip")
    assert not list(tmp_path.glob("*model.zip*"))


def published(path: Path) -> Any:
    geometry = Geometry(energy_ev=1e4, distance_m=1.0, pixel_size_m=5e-5, detector_shape_px=(16, 16), crop_px=16)
    return published_checkpoint(
        path, geometry, counts_scale=1.0, pixel_size_m=1e-8, probe_intensity=np.ones((16, 16), np.float32)
    )


@pytest.mark.parametrize("wrapping", ["bare", "state_dict", "data parallel", "cuda"])
def test_published_weights_become_a_checkpoint(tmp_path: Path, wrapping: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state: Any = PtychoNN().state_dict()
    content: Any = state
    if wrapping == "state_dict":
        content = {"epoch": 3, "state_dict": state}
    elif wrapping == "data parallel":
        content = {f"module.{key}": value for key, value in state.items()}
    elif wrapping == "cuda":  # what a GPU writes into the file
        monkeypatch.setattr("torch.serialization.location_tag", lambda storage: "cuda:3")
    torch.save(content, tmp_path / "weights.pth")
    found = published(tmp_path / "weights.pth")
    assert all(torch.equal(found.state[key], state[key]) for key in state)
    assert found.val_loss is None


class Malicious:
    """A pickle that makes a folder when it is loaded."""

    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["PROOF"],)


@pytest.mark.parametrize("kind", ["pickle", "archive"])
def test_code_in_a_file_of_weights_is_not_run(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROOF", str(tmp_path / "proof"))
    path = tmp_path / "evil.pth"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"encoder.0.weight": Malicious()}, protocol=2))
    else:
        torch.save({"encoder.0.weight": Malicious()}, path)
    for read in (published, load_checkpoint):
        with pytest.raises(ModelError, match=r"evil\.pth is corrupted, or holds more than weights"):
            read(path)
    assert not (tmp_path / "proof").exists()
    if kind == "pickle":
        pickle.loads(path.read_bytes())
        assert (tmp_path / "proof").exists()


def test_refuses_another_architecture_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(torch.nn.Conv2d(1, 4, 3).state_dict(), path)
    with pytest.raises(ModelError, match=r"other\.pth: weights are not PtychoNN's"):
        published(path)
    torch.save(torch.zeros(3), path)
    with pytest.raises(ModelError, match=r"other\.pth: a state dict is wanted, not Tensor"):
        published(path)
