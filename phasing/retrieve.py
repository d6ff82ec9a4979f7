"""Phase retrieval: a scan's frames and positions become the sample's transmission and the probe.

Two engines do rPIE (A. Maiden, D. Johnson, P. Li, Optica 4, 736, 2017): pty-chi on a CPU or a GPU, and tike on GPUs.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from phasing.errors import RetrievalError
from phasing.geometry import Geometry
from phasing.initial import initial_object, initial_probe
from phasing.reconstruction import Reconstruction, flatten, illumination, probe_intensity
from phasing.retrieval_engine import Problem, Solver
from phasing.retrieve_settings import ENGINES, RetrieveSettings

if TYPE_CHECKING:
    from phasing.scanfile import Scan

__all__ = ["EpochReport", "Reconstruction", "RetrievalCancelled", "RetrieveSettings", "retrieve"]

_MARGIN_PX = 4
"""Object beyond the outermost frames, for the engines' sub-pixel shifts."""
_MAX_OBJECT_PIXELS = 2**26
"""Two gigabytes as complex64."""


class RetrievalCancelled(RetrievalError):
    """Phase retrieval was stopped from outside."""


@dataclass(frozen=True, eq=False)
class EpochReport:
    """One epoch, counted from 1; error: mean square of the difference of measured and predicted amplitudes.

    preview_rad: (H, W) float32 phase of the object so far, or None in epochs without a preview.
    """

    epoch: int
    num_epochs: int
    error: float
    preview_rad: NDArray[np.float32] | None


def retrieve(
    scan: Scan,
    settings: RetrieveSettings,
    report: Callable[[EpochReport], None],
    cancelled: Callable[[], bool] | None = None,
    *,
    former: Reconstruction | None = None,
) -> Reconstruction:
    """Reconstruct a scan; on a CPU deterministic for a seed.

    report: called after every epoch. cancelled: asked before every epoch. former: a reconstruction to start from, of
    the same place on the sample with the same optics. Raises RetrievalError when it does not fit, the scan is empty,
    the engine cannot work here or the result is not finite, RetrievalCancelled, and MissingExtra when the engine is not
    installed.
    """
    counts = scan.prepared()
    if not counts.any():
        raise RetrievalError(f"scan {scan.scan_id} holds no counts")
    probe = initial_probe(scan, counts, settings.defocus_m, settings.num_modes, settings.seed, former)
    shape, origin_m, index = _object_grid(scan.position_m, scan.geometry)
    illuminated = illumination(shape, probe_intensity(probe), index)
    guess = initial_object(shape, origin_m, scan.geometry, former)
    problem = Problem(scan, settings, counts, probe, guess, index)
    with importlib.import_module(ENGINES[settings.engine]).solver(problem) as solver:
        errors = _epochs(solver, settings, illuminated, report, cancelled or (lambda: False))
        transmission, probe = solver.object(), solver.probe()
    if not (np.isfinite(transmission).all() and np.isfinite(probe).all()):
        raise RetrievalError(f"the reconstruction of scan {scan.scan_id} is not finite")
    return Reconstruction(
        scan_id=scan.scan_id,
        object=transmission,
        probe=probe,
        pixel_size_m=scan.geometry.object_pixel_size_m,
        origin_m=origin_m,
        position_m=scan.position_m,
        unique_id=scan.unique_id,
        error_history=errors,
        geometry=scan.geometry,
    )


def _epochs(
    solver: Solver,
    settings: RetrieveSettings,
    illuminated: NDArray[np.float32],
    report: Callable[[EpochReport], None],
    cancelled: Callable[[], bool],
) -> tuple[float, ...]:
    """Run all epochs and return their errors."""
    errors: list[float] = []
    for epoch in range(1, settings.num_epochs + 1):
        if cancelled():
            raise RetrievalCancelled(f"phase retrieval was cancelled before epoch {epoch}")
        error = solver.step()
        if not math.isfinite(error):
            raise RetrievalError(f"phase retrieval diverged in epoch {epoch}: the error is {error}")
        errors.append(error)
        show = settings.preview_every and (epoch % settings.preview_every == 0 or epoch == settings.num_epochs)
        preview_rad = _phase(solver.object(), illuminated) if show else None
        report(EpochReport(epoch, settings.num_epochs, errors[-1], preview_rad))
    return tuple(errors)


def _object_grid(
    position_m: NDArray[np.float64], geometry: Geometry
) -> tuple[tuple[int, int], tuple[float, float], NDArray[np.float64]]:
    """Shape of the object, position of its first pixel, and the positions in its pixels, (N, 2) float64.

    Raises RetrievalError when the positions lie so far apart that they cannot be metres.
    """
    half_px = geometry.frame_px // 2
    with np.errstate(over="ignore"):  # infinite is too far, too
        first_m = position_m.min(axis=0) - (half_px + _MARGIN_PX) * geometry.object_pixel_size_m
        index = (position_m - first_m) / geometry.object_pixel_size_m
        height, width = np.ceil(index.max(axis=0)) + (geometry.frame_px - half_px + _MARGIN_PX)
        span_y_m, span_x_m = np.ptp(position_m, axis=0)
        if height * width > _MAX_OBJECT_PIXELS:
            span = f"{span_y_m:.3g} x {span_x_m:.3g} m, {height:.6g} x {width:.6g} pixels"
            raise RetrievalError(f"the positions span {span}: too many; are they metres?")
    return (int(height), int(width)), (float(first_m[0]), float(first_m[1])), index


def _phase(transmission: NDArray[np.complex64], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.angle(flatten(transmission, weight)).astype(np.float32)
