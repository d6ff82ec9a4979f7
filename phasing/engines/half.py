"""An ONNX network in float16 that takes and gives float32, for GPUs."""

import warnings
from typing import Any

from phasing.errors import MissingExtra, ModelError, one_line


def half_network(onnx_bytes: bytes) -> bytes:
    """The same network with float16 weights and arithmetic; input and output stay float32.

    TensorRT 11 has no switch for float16 any more: it computes in the types that the network declares.
    Raises MissingExtra without onnx, ModelError when the bytes are no network or hold what float16 cannot express.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtra("onnx", "tensorrt") from error
    from google.protobuf.message import DecodeError
    from onnxruntime.transformers.float16 import convert_float_to_float16

    try:
        network = onnx.load_model_from_string(onnx_bytes)
        with warnings.catch_warnings():
            # Weights beyond float16's range are cut off; the difference to float32 shows whether that matters.
            warnings.simplefilter("ignore", UserWarning)
            half: Any = convert_float_to_float16(network, keep_io_types=True)
    except (
        DecodeError,
        ValueError,
        TypeError,
        onnx.checker.ValidationError,
        onnx.shape_inference.InferenceError,
    ) as error:
        raise ModelError(f"the network cannot be made float16: {one_line(error)}") from error
    content: bytes = half.SerializeToString()
    return content
