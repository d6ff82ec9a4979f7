"""What a phase retrieval engine is given and what it has to do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from phasing.retrieve_settings import RetrieveSettings
    from phasing.scanfile import Scan


@dataclass(frozen=True, eq=False)
class Problem:
    """A scan to reconstruct, with everything that does not depend on the engine.

    counts: (N, n, n) float32, prepared, zero frequency at [n // 2, n // 2]. probe: the first guess, (M, n, n)
    complex64, with the photons of a frame by an orthonormal Fourier transform. object: the first guess of it, (H, W)
    complex64. index: (N, 2) float64, where pixel [n // 2, n // 2] of each frame's patch lies in the object, in pixels.
    """

    scan: Scan
    settings: RetrieveSettings
    counts: NDArray[np.float32]
    probe: NDArray[np.complex64]
    object: NDArray[np.complex64]
    index: NDArray[np.float64]


class Solver(Protocol):
    """An engine at work on a problem."""

    def step(self) -> float:
        """Do one epoch; return the mean square of the difference of measured and predicted amplitudes."""

    def object(self) -> NDArray[np.complex64]:
        """The object so far, (H, W)."""

    def probe(self) -> NDArray[np.complex64]:
        """The probe so far, (M, n, n), scaled as the problem's."""
