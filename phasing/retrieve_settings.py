"""How a scan is reconstructed: what the engines of phase retrieval have in common, and what each of them cannot do."""

from __future__ import annotations

from dataclasses import dataclass

from phasing.errors import RetrievalError

ENGINES = {"ptychi": "phasing.retrieve_ptychi", "tike": "phasing.retrieve_tike"}
"""The modules of the engines: each has `solver`, which makes a phasing.retrieval_engine.Solver of a Problem."""


@dataclass(frozen=True)
class RetrieveSettings:
    """How a scan is reconstructed.

    engine: ptychi, or tike, which needs a CUDA GPU. batch_size: frames a step. num_modes: incoherent probe modes.
    defocus_m: how far the sample lies behind the focus, for the first guess of the probe where the scan file has none;
    None: in the focus. object_alpha, probe_alpha: rPIE's regularisation; tike has one for both. preview_every: epochs
    between two images, 0 for none. num_gpus: GPUs that share one scan, with tike. threads: CPU threads of pty-chi; None
    takes all cores but one.
    """

    engine: str = "ptychi"
    num_epochs: int = 30
    num_modes: int = 1
    batch_size: int = 50
    defocus_m: float | None = None
    object_alpha: float = 0.5
    probe_alpha: float = 0.5
    preview_every: int = 5
    seed: int = 0
    num_gpus: int = 1
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine could do."""
        for field in ("num_epochs", "num_modes", "batch_size", "num_gpus"):
            if getattr(self, field) < 1:
                raise RetrievalError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.engine not in ENGINES:
            choice = " or ".join(ENGINES)
            raise RetrievalError(f"no phase retrieval engine is called {self.engine!r}: choose {choice}")
        if self.engine == "ptychi" and self.num_gpus > 1:
            raise RetrievalError(f"num_gpus must be 1 with ptychi, not {self.num_gpus}: tike shares a scan among GPUs")
        if self.engine == "tike" and self.object_alpha != self.probe_alpha:
            raise RetrievalError("object_alpha and probe_alpha must be the same with tike, which has one for both")
