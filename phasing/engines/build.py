"""From ONNX and card to an engine that has proved itself on frames."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from phasing.card import ModelCard
from phasing.engines.hardware import engine_names_available
from phasing.engines.libraries import BUILDERS, library_network
from phasing.engines.proof import Proof, proof_path, read_proof, write_proof
from phasing.engines.protocol import AUTO, FLOAT32, Engine, EngineOptions, FloatArray, Network
from phasing.engines.reference import REFERENCE, Reference
from phasing.engines.served import Served
from phasing.errors import MissingExtra, ModelError

logger = logging.getLogger(__name__)

_REST = 3.0
"""Times what a step of the warm-up took that nothing is done after it."""
_FLOAT32_LIMIT_RAD = 1e-3
"""What libraries differ by in float32 is about 1e-6; more is an error of one of them."""


def build_engine(
    onnx_bytes: bytes,
    card: ModelCard,
    options: EngineOptions = EngineOptions(),  # noqa: B008  (frozen)
    frames: FloatArray | None = None,
) -> Engine:
    """Build an engine, compare it with float32 ONNX Runtime, and warm it up, so that its first real batch is as fast.

    frames: (N, 1, n, n) prepared real frames, not scaled, of which the first 16 are predicted. With None the engine is
    built that was chosen when there were some, and compared with nothing; if none was, it is tried on synthetic frames.
    Reduced precision that differs by more than options.max_difference_rad on average gives way to float32.
    Raises MissingExtra when the library is not installed; ModelError when the name is unknown or when the network
    cannot be built, does not fit its card, or returns anything but phases within -pi and pi.
    """
    if options.name not in (AUTO, *BUILDERS):
        raise ModelError(f"no inference engine is called {options.name!r}: choose {AUTO}, {', '.join(BUILDERS)}")
    frames = frames if frames is not None and len(frames) else None
    reference = Reference(onnx_bytes, card, frames)
    names = engine_names_available() if options.name == AUTO else (options.name,)
    path = proof_path(onnx_bytes, card, options, names)
    proof = read_proof(path) if frames is None else None
    if proof is None:
        engine, made = _first_that_works(reference, options, names)
        write_proof(path, made)
        return engine
    return _as_proven(reference, options, proof) or _in_place_of(proof, reference, options, names, path)


def _in_place_of(
    proof: Proof, reference: Reference, options: EngineOptions, names: Sequence[str], path: Path | None
) -> Engine:
    """An engine in place of one that was chosen and is not to be had any more; real frames have the last word."""
    remarks: list[str] = []
    if proof.precision == FLOAT32:  # real frames may have refused any other, which synthetic ones must not bring back
        options, remarks = replace(options, precision=FLOAT32), [proof.remark] if proof.remark else []
    engine, made = _first_that_works(reference, options, names, remarks)
    if made.engine == proof.engine:  # else what hinders it may pass, such as a GPU that is full
        write_proof(path, made)
    return engine


def _as_proven(reference: Reference, options: EngineOptions, proof: Proof) -> Engine | None:
    """The engine that a trial chose; None when it is not to be had any more as it was then."""
    try:
        options = replace(options, name=proof.engine, precision=proof.precision)
        with library_network(reference.onnx_bytes, reference.card, options) as network:
            if (network.name, network.version) != (proof.name, proof.version):
                raise ModelError(f"it is {network.name} {network.version} now")
            return _warm(reference, network, options, proof)
    except (ModelError, MissingExtra) as refusal:
        logger.info("%s %s, which was chosen, is tried again: %s", proof.name, proof.version, refusal)
        return None


def _first_that_works(
    reference: Reference, options: EngineOptions, names: Sequence[str], remarks: Sequence[str] = ()
) -> tuple[Engine, Proof]:
    refusals: list[ModelError | MissingExtra] = []
    remarks = list(remarks)
    for name in names:
        try:
            return _proved(reference, replace(options, name=name), remarks)
        except (ModelError, MissingExtra) as refusal:
            refusals.append(refusal)
            remarks.append(f"{name}: {refusal}")
            logger.info("%s does not serve model version %d: %s", name, reference.card.version, refusal)
    raise refusals[0]


def _proved(reference: Reference, options: EngineOptions, remarks: list[str]) -> tuple[Engine, Proof]:
    """An engine in the precision asked for, or in float32 where that does not do; remarks grow by the reason."""
    with library_network(reference.onnx_bytes, reference.card, options) as network:
        if network.name != REFERENCE:
            reference.expected_rad()  # if that is no phase, no other precision needs to be tried
        try:
            proof = _compared(reference, network, options, "; ".join(remarks))
            return _warm(reference, network, options, proof), proof
        except ModelError as error:
            if network.precision == FLOAT32:
                raise
            refusal = str(error)  # not the error itself, which would keep the network
        network.close()
    logger.warning("float32 takes the place of %s: %s", network.precision, refusal)
    remarks.append(refusal)
    return _proved(reference, replace(options, precision=FLOAT32), remarks)


def _compared(reference: Reference, network: Network, options: EngineOptions, remark: str) -> Proof:
    """What a network is worth on the reference's frames. ModelError when it differs too much, or answers no phase."""
    reduced = network.precision != FLOAT32
    limit_rad = options.max_difference_rad if reduced else _FLOAT32_LIMIT_RAD
    difference_rad = reference.difference_rad(Served(network, reference.card.input_shape))
    if not difference_rad <= limit_rad:
        raise ModelError(
            f"{network.name} differs by {difference_rad:.2g} rad from float32 ONNX Runtime, over {limit_rad:g} rad"
        )
    shown_rad = difference_rad if reduced else None
    return Proof(options.name, network.precision, network.name, network.version, shown_rad, remark)


def _warm(reference: Reference, network: Network, options: EngineOptions, proof: Proof) -> Engine:
    """Predict, resting after each time: another engine may be serving beside it, on the same cores.

    On a CPU the first frame of each caller is what costs more, and no number of frames after it (measured); a GPU is
    warmed up with the most that it will get, too.
    """
    engine = Served(network, reference.card.input_shape, proof.difference_rad, proof.remark)
    for size in dict.fromkeys((network.batch_size or 1, network.batch_size or network.largest or 1)):
        counts = np.resize(reference.counts, (size, *reference.card.input_shape))
        for _ in range(options.parallel):
            began_s = time.monotonic()
            reference.phase_rad(engine, counts)
            time.sleep(_REST * (time.monotonic() - began_s))
    return engine
