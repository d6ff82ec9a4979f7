"""How good a reconstruction is: how well it explains the frames, and whether two halves of the scan agree."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from phasing.errors import PhaselineError, RetrievalError
from phasing.ring import ring_correlation

if TYPE_CHECKING:
    from phasing.reconstruction import Reconstruction
    from phasing.retrieve_settings import RetrieveSettings
    from phasing.scanfile import Scan

_ATTRIBUTE = "phaseline_quality"
_LEAST_FRAMES = 40
"""A scan of fewer is not halved: its halves would hardly overlap."""


@dataclass(frozen=True)
class Quality:
    """Figures of one reconstruction.

    fourier_error: root mean square of the difference of measured and predicted amplitudes in the last epoch, over the
    root mean square of the measured ones; photon noise alone gives 1 / (2 sqrt(counts a pixel)). ring_correlation: of
    two reconstructions from every other frame each, the mean up to half of Nyquist's frequency. resolution_m: the
    period at which that correlation falls below a half. Both None for a scan that was not halved.
    """

    fourier_error: float
    ring_correlation: float | None = None
    resolution_m: float | None = None

    def fault(self, *, max_fourier_error: float, min_ring_correlation: float) -> str:
        """Why the reconstruction must not be trained on, empty when it may; a limit of 0 is none."""
        if max_fourier_error and not self.fourier_error <= max_fourier_error:
            return f"its Fourier error is {self.fourier_error:.3f}, {max_fourier_error:g} is allowed"
        if min_ring_correlation and self.ring_correlation is not None and self.ring_correlation < min_ring_correlation:
            return f"its halves correlate by {self.ring_correlation:.3f}, {min_ring_correlation:g} is asked for"
        return ""

    def save(self, path: Path) -> None:
        """Note the figures in the file of a reconstruction."""
        with h5py.File(path, "r+") as file:
            file.attrs[_ATTRIBUTE] = json.dumps(asdict(self))

    @classmethod
    def load(cls, path: Path) -> Quality | None:
        """The figures in the file of a reconstruction; None where there are none.

        Raises RetrievalError naming the file when it is missing or damaged.
        """
        try:
            with h5py.File(path, "r") as file:
                noted = file.attrs.get(_ATTRIBUTE)
            return None if noted is None else cls(**json.loads(noted))
        except (OSError, ValueError, TypeError) as error:
            raise RetrievalError(f"{path} is not a readable reconstruction: {error}") from error


def quality(
    scan: Scan,
    found: Reconstruction,
    settings: RetrieveSettings,
    reconstruct: Callable[[Scan, RetrieveSettings], Reconstruction],
    *,
    half_scans: bool = True,
) -> Quality:
    """The figures of a reconstruction of a scan; with half_scans every other frame is reconstructed twice over.

    reconstruct: does the halves, each from its own frames alone. Halves that cannot be compared have no figures.
    """
    mean_counts = float(scan.prepared().mean(dtype=np.float64))
    error = Quality(fourier_error=math.sqrt(found.error_history[-1] / mean_counts))
    if not half_scans or scan.num_frames < _LEAST_FRAMES:
        return error
    quiet = replace(settings, preview_every=0)
    halves = [reconstruct(scan.part(np.arange(first, scan.num_frames, 2)), quiet) for first in (0, 1)]
    try:
        rings = ring_correlation(halves[0].phase_map(), halves[1].phase_map())
    except PhaselineError:
        return error
    return replace(error, ring_correlation=rings.mean, resolution_m=rings.resolution_m)
