"""What engines are compared with: a model's answers by ONNX Runtime in float32 on the CPU."""

import numpy as np

from phasing.card import ModelCard
from phasing.engines.libraries import library_network
from phasing.engines.protocol import FLOAT32, Engine, EngineOptions, FloatArray
from phasing.engines.served import Served
from phasing.errors import ModelError

PHASE_LIMIT_RAD = np.pi + 0.05
"""The network ends in tanh times pi; the rest is bfloat16's rounding."""
REFERENCE = "onnxruntime CPU float32"
_OPTIONS = EngineOptions("onnxruntime", threads=1, precision=FLOAT32, providers=("cpu",))
"""One thread: it has time, and what serves beside it has not."""
_COMPARED_FRAMES = 16


class Reference:
    """A model with the frames that engines are tried on, and what they are in float32.

    counts: (N, 1, n, n) float32 prepared counts, not scaled: the first 16 of the frames given, else synthetic ones.
    """

    def __init__(self, onnx_bytes: bytes, card: ModelCard, frames: FloatArray | None) -> None:
        self.onnx_bytes, self.card = onnx_bytes, card
        some = frames[:_COMPARED_FRAMES] if frames is not None else _synthetic_frames(card)
        self.counts = np.ascontiguousarray(some, np.float32)
        self._expected_rad: FloatArray | None = None

    def expected_rad(self) -> FloatArray:
        """(N, 1, n, n) phase in rad of the frames. ModelError when it is none."""
        if self._expected_rad is None:
            with library_network(self.onnx_bytes, self.card, _OPTIONS) as network:
                self._expected_rad = self.phase_rad(Served(network, self.card.input_shape), self.counts)
                network.close()
        return self._expected_rad

    def difference_rad(self, engine: Engine) -> float:
        """Mean absolute difference of an engine's answers to the reference's. ModelError when they are no phase."""
        phase_rad = self.phase_rad(engine, self.counts)
        return 0.0 if engine.name == REFERENCE else float(np.abs(phase_rad - self.expected_rad()).mean())

    def phase_rad(self, engine: Engine, counts: FloatArray) -> FloatArray:
        """What an engine answers. ModelError when it is not finite, or no phase."""
        phase_rad = engine.infer(counts)
        if not np.isfinite(phase_rad).all() or np.abs(phase_rad).max() > PHASE_LIMIT_RAD:
            reason = "output is not a phase within -pi and pi"
            raise ModelError(f"model version {self.card.version}: {reason} ({engine.name})")
        return phase_rad


def _synthetic_frames(card: ModelCard) -> FloatArray:
    """Speckle under an envelope, with the brightest pixels around 1 once scaled, as in training."""
    side_px = card.input_shape[1]
    along = (np.arange(side_px) - side_px // 2) / (side_px / 8)
    envelope = np.exp(-(along[:, None] ** 2 + along**2))
    scaled = envelope * np.random.default_rng(0).exponential(0.3, (_COMPARED_FRAMES, *card.input_shape))
    return (scaled / card.counts_scale).astype(np.float32)
