"""The libraries that compute networks, and what they raise turned into one kind of error."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from phasing.card import ModelCard
from phasing.engines.onnxruntime_engine import OnnxRuntimeNetwork
from phasing.engines.openvino_engine import OpenVinoNetwork
from phasing.engines.protocol import EngineOptions, Network, cannot_build
from phasing.engines.tensorrt_engine import TensorRtNetwork
from phasing.engines.torch_engine import torch_network
from phasing.errors import PhaselineError

BUILDERS: dict[str, Callable[[bytes, ModelCard, EngineOptions], Network]] = {
    "openvino": OpenVinoNetwork,
    "onnxruntime": OnnxRuntimeNetwork,
    "tensorrt": TensorRtNetwork,
    "torch": torch_network,
}


@contextmanager
def library_network(onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> Iterator[Network]:
    """What the library that options.name names makes of a model; closed where what is done with it here fails.

    Raises ModelError for whatever the library raises, for there may be another that can; MissingExtra without it.
    """
    try:
        network = BUILDERS[options.name](onnx_bytes, card, options)
    except (PhaselineError, MemoryError):
        raise
    except Exception as error:
        raise cannot_build(card.version, options.name, error) from error
    try:
        yield network
    except BaseException:  # whatever it is: nobody else knows of the network
        network.close()
        raise
