"""ONNX networks to build engines from: PtychoNN with changed weights, and small ones with odd inputs and outputs."""

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from phasing.card import ModelCard

FloatArray = npt.NDArray[np.float32]

NAMES = tuple(name for name in ("onnxruntime", "openvino", "torch") if importlib.util.find_spec(name) is not None)
"""All that can compute without a GPU."""
SIDE_PX = 16


def frames(num: int, seed: int | None = None) -> FloatArray:
    generator = np.random.default_rng(num if seed is None else seed)
    return generator.uniform(0.0, 120.0, (num, 1, SIDE_PX, SIDE_PX)).astype(np.float32)


def card_of_side(card: ModelCard, side_px: int) -> ModelCard:
    geometry = replace(card.geometry, detector_shape_px=(side_px, side_px), crop_px=side_px)
    weight = np.ones((side_px, side_px), np.float32)
    return replace(card, input_shape=(1, side_px, side_px), geometry=geometry, probe_intensity=weight)


def with_weights(onnx_bytes: bytes, changes: dict[str, Callable[[FloatArray], FloatArray]]) -> bytes:
    """The network with some of its weights changed."""
    model = onnx.load_model_from_string(onnx_bytes)
    for tensor in model.graph.initializer:
        if tensor.name in changes:
            changed = changes[tensor.name](np.array(numpy_helper.to_array(tensor), np.float32))
            tensor.CopyFrom(numpy_helper.from_array(changed.astype(np.float32), tensor.name))
    return bytes(model.SerializeToString())


def with_batch(onnx_bytes: bytes, batch: int) -> bytes:
    """The network with a fixed number of frames and the input's name of the published file."""
    model = onnx.load_model_from_string(onnx_bytes)
    old = model.graph.input[0].name
    model.graph.input[0].name = "input.1"
    for node in model.graph.node:
        for index, name in enumerate(node.input):
            if name == old:
                node.input[index] = "input.1"
    for port in (*model.graph.input, *model.graph.output):
        port.type.tensor_type.shape.dim[0].dim_value = batch
    return bytes(model.SerializeToString())


def small_network(
    given: Sequence[Sequence[int | str]] = (("b", 1, SIDE_PX, SIDE_PX),),
    gained: Sequence[Sequence[int | str]] = (("b", 1, SIDE_PX, SIDE_PX),),
    dtype: int = TensorProto.FLOAT,
) -> bytes:
    """tanh times pi, from the first input to every output."""
    inputs = [helper.make_tensor_value_info(f"in{k}", dtype, list(shape)) for k, shape in enumerate(given)]
    outputs = [helper.make_tensor_value_info(f"out{k}", dtype, list(shape)) for k, shape in enumerate(gained)]
    pi = helper.make_tensor("pi", dtype, [], [math.pi])
    nodes = [helper.make_node("Tanh", ["in0"], ["tanh"])]
    nodes += [helper.make_node("Mul", ["tanh", "pi"], [port.name]) for port in outputs]
    graph = helper.make_graph(nodes, "small", inputs, outputs, [pi])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())
