"""From ONNX and card to an engine that has proved itself on frames."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from phasing.card import ModelCard
from phasing.engines.cache import cache_path, digest_of, read_cached, write_cached
from phasing.engines.hardware import engine_names_available
from phasing.engines.onnxruntime_engine import OnnxRuntimeNetwork
from phasing.engines.openvino_engine import OpenVinoNetwork
from phasing.engines.protocol import AUTO, FLOAT32, Engine, EngineOptions, FloatArray, Network, cannot_build
from phasing.engines.served import Served
from phasing.engines.tensorrt_engine import TensorRtNetwork
from phasing.engines.torch_engine import torch_network
from phasing.errors import MissingExtra, ModelError, PhaselineError

logger = logging.getLogger(__name__)

PHASE_LIMIT_RAD = np.pi + 0.05
"""The network ends in tanh times pi; the rest is bfloat16's rounding."""
_COMPARED_FRAMES = 16
_REST = 3.0
"""Times what a step of the warm-up took that nothing is done after it."""
_FLOAT32_LIMIT_RAD = 1e-3
"""What libraries differ by in float32 is about 1e-6; more is an error of one of them."""

_REFERENCE = "onnxruntime CPU float32"

_BUILDERS: dict[str, Callable[[bytes, ModelCard, EngineOptions], Network]] = {
    "openvino": OpenVinoNetwork,
    "onnxruntime": OnnxRuntimeNetwork,
    "tensorrt": TensorRtNetwork,
    "torch": torch_network,
}


def build_engine(
    onnx_bytes: bytes,
    card: ModelCard,
    options: EngineOptions = EngineOptions(),  # noqa: B008  (frozen)
    frames: FloatArray | None = None,
) -> Engine:
    """Build an engine, compare it with float32 ONNX Runtime, and warm it up, so that its first real batch is as fast.

    frames: (N, 1, n, n) prepared real frames, not scaled, of which the first 16 are predicted; None for synthetic ones.
    Reduced precision that differs by more than options.max_difference_rad on average gives way to float32.
    Raises MissingExtra when the library is not installed; ModelError when the name is unknown or when the network
    cannot be built, does not fit its card, or returns anything but phases within -pi and pi.
    """
    if options.name not in (AUTO, *_BUILDERS):
        raise ModelError(f"no inference engine is called {options.name!r}: choose {AUTO}, {', '.join(_BUILDERS)}")
    trial = _Trial(onnx_bytes, card, options, frames)
    names = engine_names_available() if options.name == AUTO else (options.name,)
    refusals: list[ModelError | MissingExtra] = []
    for name in names:
        try:
            return _proved(trial, replace(options, name=name))
        except (ModelError, MissingExtra) as refusal:
            refusals.append(refusal)
            logger.info("%s does not serve model version %d: %s", name, card.version, refusal)
    raise refusals[0]


class _Trial:
    """A model with the frames that an engine is tried on, and what they are in float32."""

    def __init__(self, onnx_bytes: bytes, card: ModelCard, options: EngineOptions, frames: FloatArray | None) -> None:
        self.onnx_bytes, self.card = onnx_bytes, card
        self._options = options
        some = frames[:_COMPARED_FRAMES] if frames is not None and len(frames) else _synthetic_frames(card)
        self.counts = np.ascontiguousarray(some, np.float32)
        self._expected_rad: FloatArray | None = None

    def expected_rad(self) -> FloatArray:
        """(N, 1, n, n) phase in rad by ONNX Runtime in float32. ModelError when it is none."""
        if self._expected_rad is None:
            options = EngineOptions("onnxruntime", threads=self._options.threads, precision=FLOAT32, providers=("cpu",))
            network = _network(self.onnx_bytes, self.card, options)
            self._expected_rad = self.phase_rad(_served(network, self.card), self.counts)
            network.close()
        return self._expected_rad

    def kept_difference(self, network: Network) -> Path | None:
        """Where a network's difference to float32 on these frames is kept; the second build need not measure it."""
        facts = (digest_of(self.onnx_bytes), digest_of(self.counts.tobytes()), self.card.counts_scale, network.name)
        return cache_path(self._options.cache, "difference", *facts, network.version)

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


def _network(onnx_bytes: bytes, card: ModelCard, options: EngineOptions) -> Network:
    """What a library makes of a model; ModelError for whatever it raises, for there may be another that can."""
    try:
        return _BUILDERS[options.name](onnx_bytes, card, options)
    except (PhaselineError, MemoryError):
        raise
    except Exception as error:
        raise cannot_build(card.version, options.name, error) from error


def _proved(trial: _Trial, options: EngineOptions) -> Engine:
    network = _network(trial.onnx_bytes, trial.card, options)
    path = trial.kept_difference(network)
    kept = b"0" if network.name == _REFERENCE else read_cached(path)
    try:
        # First of all what the network is in float32: if that is no phase, no other precision needs to be tried.
        expected_rad = trial.expected_rad() if kept is None else None
    except ModelError:
        network.close()
        raise
    reduced = network.precision != FLOAT32
    try:
        engine = _served(network, trial.card)
        _warm_up(trial, engine, options)
        if expected_rad is None:
            difference_rad = float(kept or 0.0)
        else:
            difference_rad = float(np.abs(trial.phase_rad(engine, trial.counts) - expected_rad).mean())
        _check_difference(network.name, difference_rad, options.max_difference_rad if reduced else _FLOAT32_LIMIT_RAD)
    except ModelError as refusal:
        network.close()
        if not reduced:
            raise
        logger.warning("float32 takes the place of %s: %s", network.precision, refusal)
        return _proved(trial, replace(options, precision=FLOAT32))
    if kept is None:
        write_cached(path, repr(difference_rad).encode())
    return _served(network, trial.card, difference_rad if reduced else None)


def _warm_up(trial: _Trial, engine: Engine, options: EngineOptions) -> None:
    """Predict the numbers of frames that it will get, resting after each: another engine may be serving beside it."""
    for size in dict.fromkeys((1, options.batch_size)):
        counts = np.resize(trial.counts, (size, *trial.card.input_shape))
        for _ in range(options.parallel):
            began_s = time.monotonic()
            trial.phase_rad(engine, counts)
            time.sleep(_REST * (time.monotonic() - began_s))


def _check_difference(name: str, difference_rad: float, limit_rad: float) -> None:
    if not difference_rad <= limit_rad:
        raise ModelError(
            f"{name} differs from float32 ONNX Runtime by {difference_rad:.2g} rad, over {limit_rad:g} rad"
        )


def _served(network: Network, card: ModelCard, difference_rad: float | None = None) -> Engine:
    return Served(network, card.input_shape, difference_rad)
