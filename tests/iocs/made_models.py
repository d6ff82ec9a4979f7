"""Small real ONNX models with cards, whose predictions tell which model made them."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from phasing.card import ModelCard
from phasing.geometry import Geometry

SIDE_PX = 16


def geometry(side_px: int = SIDE_PX) -> Geometry:
    """A geometry for square frames that are used whole."""
    return Geometry(
        energy_ev=10_400.0, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(side_px, side_px), crop_px=side_px
    )


def constant_onnx(phase_rad: float, side_px: int = SIDE_PX) -> bytes:
    """A network that predicts the same phase everywhere: 0 * input + phase."""
    shape = ["batch", 1, side_px, side_px]
    nodes = [
        helper.make_node("Mul", ["input", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "phase"], ["output"]),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.FLOAT, [1], [0.0]),
        helper.make_tensor("phase", TensorProto.FLOAT, [1], [phase_rad]),
    ]
    graph = helper.make_graph(
        nodes,
        "constant",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def card(version: int, onnx_bytes: bytes, *, parent: int | None = None, side_px: int = SIDE_PX) -> ModelCard:
    """The card of such a network."""
    return ModelCard(
        version=version,
        parent=parent,
        lineage="test",
        digest=hashlib.sha256(onnx_bytes).hexdigest(),
        scans=("scan",),
        val_loss=0.5 / version,
        incumbent_val_loss=None,
        losses=(0.5,),
        val_losses=(0.5,),
        input_shape=(1, side_px, side_px),
        geometry=geometry(side_px),
        counts_scale=1.0,
        pixel_size_m=geometry(side_px).object_pixel_size_m,
        probe_intensity=np.ones((side_px, side_px), np.float32),
        created_s=time.time(),
        seconds=1.0,
    )


def write_model(folder: Path, version: int, phase_rad: float) -> tuple[Path, Path]:
    """A model's ONNX file and card on disk."""
    content = constant_onnx(phase_rad)
    onnx_path, card_path = folder / f"{version}.onnx", folder / f"{version}.json"
    onnx_path.write_bytes(content)
    card_path.write_text(json.dumps(card(version, content).to_json()))
    return onnx_path, card_path
