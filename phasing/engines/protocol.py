"""What the edge asks of an inference engine, whichever library computes it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from phasing.errors import ModelError, one_line

FloatArray = npt.NDArray[np.float32]

AUTO = "auto"
FLOAT32 = "float32"
TF32 = "tf32"
BFLOAT16 = "bfloat16"
FLOAT16 = "float16"
PRECISIONS = (AUTO, FLOAT32, TF32, BFLOAT16, FLOAT16)
PROVIDERS = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is to be built.

    name: auto (the fastest installed that works on this hardware), openvino, onnxruntime, tensorrt or torch.
    batch_size: what infer is called with most, and at most. threads: CPU threads in all; None leaves it to the library.
    parallel: calls of infer that run at the same time from different threads.
    precision: auto (what the engine is fastest in), float32, tf32, bfloat16 or float16.
    providers: onnxruntime's execution providers in order (cpu, cuda, tensorrt); empty for cuda where there is one.
    max_difference_rad: reduced precision falls back to float32 when its mean absolute difference exceeds this.
    cache: folder for compiled engines and timing caches; None keeps none.
    Raises ModelError when an option is out of its range.
    """

    name: str = AUTO
    batch_size: int = 8
    threads: int | None = None
    parallel: int = 1
    precision: str = AUTO
    providers: tuple[str, ...] = ()
    max_difference_rad: float = 0.02
    cache: Path | None = None

    def __post_init__(self) -> None:
        if min(self.batch_size, self.parallel, 1 if self.threads is None else self.threads) < 1:
            raise ModelError("an engine's batch_size, threads and parallel are at least 1")
        if self.precision not in PRECISIONS:
            raise ModelError(f"no precision is called {self.precision!r}: choose {', '.join(PRECISIONS)}")
        unknown = [name for name in self.providers if name not in PROVIDERS]
        if unknown:
            raise ModelError(f"no execution provider is called {unknown[0]!r}: choose from {', '.join(PROVIDERS)}")


class Engine(Protocol):
    """A network ready to serve.

    name: library, device and precision in at most 39 characters, e.g. "openvino CPU bfloat16".
    batch_size: the only number of frames that the network takes at once; None where it takes any. infer takes any.
    parallel: how many threads may call infer at the same time and compute at the same time; further ones wait.
    difference_rad: mean absolute difference to float32 when it was tried; None when it computes in float32.
    remark: why a faster engine or precision was passed over when it was tried; empty when none was.
    """

    @property
    def name(self) -> str: ...  # noqa: D102  (said above, as are the other four)

    @property
    def batch_size(self) -> int | None: ...  # noqa: D102

    @property
    def parallel(self) -> int: ...  # noqa: D102

    @property
    def difference_rad(self) -> float | None: ...  # noqa: D102

    @property
    def remark(self) -> str: ...  # noqa: D102

    def infer(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) float32 prepared counts, not scaled, to (B, 1, n, n) float32 phase in rad, the caller's own.

        Other threads of the interpreter run on while it computes. Raises ModelError when the library fails.
        """

    def close(self) -> None:
        """Give memory and threads back; infer must not be called afterwards."""


class Network(Protocol):
    """What one library makes of an ONNX file; `Served` makes an Engine of it.

    Making it and running it may raise whatever the library raises: `build` and `Served` make a ModelError of it.

    version: of the library. precision: what it really computes in. batch_size: the only number of frames that run
    takes; None for any number up to largest. largest: None where there is no limit.
    """

    name: str
    version: str
    precision: str
    batch_size: int | None
    largest: int | None
    parallel: int

    def run(self, counts: FloatArray) -> FloatArray:
        """(B, 1, n, n) float32 prepared counts, not scaled, to phase in rad, with B as batch_size and largest say."""

    def close(self) -> None:
        """Give memory and threads back."""


def cannot_build(version: int, library: str, error: Exception | str) -> ModelError:
    """The library's reason not to build a model, in one line."""
    return ModelError(f"model version {version} cannot be built by {library}: {one_line(error)}")


def cannot_infer(library: str, error: Exception | str) -> ModelError:
    """The library's reason not to compute, in one line."""
    return ModelError(f"{library} cannot infer: {one_line(error)}")
