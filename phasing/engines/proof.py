"""What a trial chose for a model, kept on disk: who builds it next, here or elsewhere, has the same and tries nothing.

A restarted edge has no frames yet, and consumers are given none. Left to themselves they would compare on synthetic
frames, and might serve a precision that the real ones spoil.
"""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from phasing.card import ModelCard
from phasing.engines.cache import cache_path, digest_of, read_cached, write_cached
from phasing.engines.protocol import EngineOptions


@dataclass(frozen=True)
class Proof:
    """The engine that proved itself, as it was then.

    engine: its name among the options. precision: what it computes in. name: library, device and precision.
    version: of the library. difference_rad: to float32; None when it computes in float32.
    remark: why what is faster was passed over; empty when nothing was.
    """

    engine: str
    precision: str
    name: str
    version: str
    difference_rad: float | None
    remark: str


def proof_path(onnx_bytes: bytes, card: ModelCard, options: EngineOptions, names: Sequence[str]) -> Path | None:
    """Where the proof is kept; None without a cache.

    names: the engines to choose from, so that a library or a GPU that is new here is tried.
    """
    wanted = options.precision, options.providers, options.max_difference_rad
    return cache_path(options.cache, "proof", digest_of(onnx_bytes), *names, *wanted, card.counts_scale)


def read_proof(path: Path | None) -> Proof | None:
    """The proof at path; None when there is none, or when another version of phaseline wrote it."""
    content = read_cached(path)
    if content is None:
        return None
    try:
        return Proof(**json.loads(content))
    except (ValueError, TypeError):
        return None


def write_proof(path: Path | None, proof: Proof) -> None:
    """Keep a proof in place of the one before."""
    write_cached(path, json.dumps(dataclasses.asdict(proof)).encode())
