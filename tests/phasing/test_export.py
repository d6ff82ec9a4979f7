import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from phasing.checkpoint import load_checkpoint
from phasing.errors import ModelError
from phasing.export import export_onnx
from phasing.network import load_network


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_answers_as_torch_does_for_any_batch(exported: Any, batch: int) -> None:
    scaled = np.random.default_rng(batch).exponential(1.0, (batch, 1, 16, 16)).astype(np.float32)
    session = onnxruntime.InferenceSession(exported.onnx_path, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected_rad = load_network(load_checkpoint(exported.checkpoint_path).state)(torch.from_numpy(scaled)).numpy()
    assert np.abs(session.run(None, {"input": scaled})[0] - expected_rad).max() < 1e-3


def test_the_graph_is_sound_and_named(exported: Any) -> None:
    model = onnx.load(exported.onnx_path)
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["input"]
    assert model.opset_import[0].version >= 12


def test_the_card_describes_the_file(exported: Any) -> None:
    checkpoint = load_checkpoint(exported.checkpoint_path)
    draft = exported.draft
    assert draft.digest == hashlib.sha256(exported.onnx_path.read_bytes()).hexdigest()
    assert draft.version == 0
    assert draft.input_shape == (1, 16, 16)
    assert draft.val_losses == checkpoint.val_losses
    assert draft.counts_scale == checkpoint.counts_scale
    assert draft.scans == ("tiny",)


def test_a_checkpoint_that_does_not_fit_leaves_no_file(exported: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    content = torch.load(exported.checkpoint_path, weights_only=True)
    del content["state"]["encoder.0.weight"]
    torch.save(content, broken)
    with pytest.raises(ModelError, match=r"encoder\.0\.weight"):
        export_onnx(broken, tmp_path / "model.onnx", lineage="test")
    assert [path.name for path in tmp_path.iterdir()] == ["broken.pt"]
