"""PtychoNN's weights out of an ONNX file, for machines whose only library is PyTorch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from phasing.engines.protocol import FloatArray
from phasing.errors import MissingExtra, ModelError

if TYPE_CHECKING:
    from phasing.network import PtychoNN

_STEPS = ("Conv", "Relu", "Conv", "Relu")
_NODES = (*_STEPS, "MaxPool") * 4 + (*_STEPS, "Resize") * 4 + ("Conv", "Tanh", "Mul")
_HELD_NODES = ("Constant", "Identity")
"""Nodes that compute nothing."""


def network_of(onnx_bytes: bytes) -> "PtychoNN":
    """PtychoNN with the weights of an ONNX file whose nodes are PtychoNN's, in evaluation mode.

    What the nodes do in detail (padding, the kind of resizing) is not looked at: a comparison with ONNX Runtime's
    answer shows it. Raises MissingExtra without onnx or torch, ModelError when the network is another one.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "hpc") from error
    from phasing.network import PtychoNN, load_network

    graph = onnx.load_model_from_string(onnx_bytes).graph
    nodes = [node for node in graph.node if node.op_type not in _HELD_NODES]
    if tuple(node.op_type for node in nodes) != _NODES:
        raise ModelError("torch serves PtychoNN only, and this network's nodes are not PtychoNN's")
    arrays = _convolutions(graph, [node for node in nodes if node.op_type == "Conv"])
    import torch

    keys = list(PtychoNN().state_dict())  # weight and bias by turns, in the order of the convolutions
    return load_network({key: torch.from_numpy(array) for key, array in zip(keys, arrays, strict=True)})


def _convolutions(graph: Any, nodes: Sequence[Any]) -> list[FloatArray]:
    from onnx import numpy_helper

    held = {tensor.name: tensor for tensor in graph.initializer}
    names = [name for node in nodes for name in node.input[1:]]
    if len(names) != 2 * len(nodes) or not held.keys() >= set(names):
        raise ModelError("torch serves PtychoNN only: a convolution of this network has no constant weight and bias")
    return [np.array(numpy_helper.to_array(held[name]), np.float32) for name in names]
