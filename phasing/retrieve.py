"""Phase retrieval: a scan's frames and positions become the sample's transmission and the probe.

The engine is pty-chi's rPIE (A. Maiden, D. Johnson, P. Li, Optica 4, 736, 2017), on a GPU where there is one.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phasing.compute import torch_set_up
from phasing.errors import MissingExtra, RetrievalError
from phasing.geometry import Geometry
from phasing.initial import initial_probe, valid_pixels
from phasing.reconstruction import Reconstruction, flatten, illumination, probe_intensity

if TYPE_CHECKING:
    from phasing.scanfile import Scan

__all__ = ["EpochReport", "Reconstruction", "RetrievalCancelled", "RetrieveSettings", "retrieve"]

_MARGIN_PX = 4
"""Object beyond the outermost frames, for pty-chi's sub-pixel shifts."""


_MAX_OBJECT_PIXELS = 2**26
"""Two gigabytes as complex64."""


class RetrievalCancelled(RetrievalError):
    """Phase retrieval was stopped from outside."""


@dataclass(frozen=True)
class RetrieveSettings:
    """How a scan is reconstructed.

    batch_size: frames a step. num_modes: incoherent probe modes. defocus_m: how far the sample lies behind the focus,
    for the first guess of the probe where the scan file has none; None: in the focus. object_alpha,
    probe_alpha: rPIE's regularisation. preview_every: epochs between two images, 0 for none. threads: None takes
    all cores but one.
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
    threads: int | None = None

    def __post_init__(self) -> None:
        """Refuse what no engine could do."""
        for field in ("num_epochs", "num_modes", "batch_size"):
            if getattr(self, field) < 1:
                raise RetrievalError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.engine != "ptychi":
            raise RetrievalError(f"no phase retrieval engine is called {self.engine!r}: choose ptychi")


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
) -> Reconstruction:
    """Reconstruct a scan; deterministic for a seed.

    report: called after every epoch. cancelled: asked before every epoch.
    Raises RetrievalError when the scan is empty or the result is not finite, RetrievalCancelled, and MissingExtra
    when pty-chi is not installed.
    """
    counts = scan.prepared()
    if not counts.any():
        raise RetrievalError(f"scan {scan.scan_id} holds no counts")
    probe = initial_probe(scan, counts, settings.defocus_m, settings.num_modes, settings.seed)
    shape, origin_m, index = _object_grid(scan.position_m, scan.geometry)
    illuminated = illumination(shape, probe_intensity(probe), index)
    with _ptychi_task(scan, settings, counts, probe, shape, index) as task:
        errors = _epochs(task, settings, illuminated, report, cancelled or (lambda: False))
        transmission, probe = _array(task, "object")[0], _array(task, "probe")[0] * scan.geometry.frame_px
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
    task: Any,
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
        task.run(1)
        errors.append(_finite_error(task, epoch))
        show = settings.preview_every and (epoch % settings.preview_every == 0 or epoch == settings.num_epochs)
        preview_rad = _phase(_array(task, "object")[0], illuminated) if show else None
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


@contextmanager
def _ptychi_task(
    scan: Scan,
    settings: RetrieveSettings,
    counts: NDArray[np.float32],
    probe: NDArray[np.complex64],
    shape: tuple[int, int],
    index: NDArray[np.float64],
) -> Iterator[Any]:
    try:
        from ptychi.api.task import PtychographyTask
    except ImportError as error:
        raise MissingExtra("ptychi", "hpc") from error
    # pty-chi's Fourier transform is not orthonormal: its probe is ours over n, and the same back.
    with (
        _quiet_torch(settings),
        PtychographyTask(
            _options(scan.geometry, settings, _object_step(probe, shape, index, settings)),
            diffraction_data=counts,
            object_data=np.ones((1, *shape), np.complex64),
            probe_data=probe[None] / scan.geometry.frame_px,
            probe_position_y_px=index[:, 0],
            probe_position_x_px=index[:, 1],
            valid_pixel_mask=valid_pixels(scan),
        ) as task,
    ):
        yield task


@contextmanager
def _quiet_torch(settings: RetrieveSettings) -> Iterator[None]:
    """Threads, seed and silence for one reconstruction."""
    # pty-chi draws progress bars and logs every epoch at level INFO; progress is the caller's matter here.
    logging.getLogger("ptychi").setLevel(logging.ERROR)
    with torch_set_up(settings.seed, settings.threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar", UserWarning)
        yield


def _object_step(
    probe: NDArray[np.complex64], shape: tuple[int, int], index: NDArray[np.float64], settings: RetrieveSettings
) -> float:
    """Share of rPIE's step that is taken.

    pty-chi adds up what the frames of a batch want; where they overlap that is more than one step, and diverges.
    """
    intensity = probe_intensity(probe)
    alpha = settings.object_alpha
    wanted = intensity / ((1 - alpha) * intensity + alpha * intensity.max())
    overlap = illumination(shape, wanted, index).max() * min(1.0, settings.batch_size / len(index))
    return float(1.0 / max(1.0, overlap))


def _options(geometry: Geometry, settings: RetrieveSettings, object_step: float) -> Any:
    import torch
    from ptychi import api

    options = api.RPIEOptions()
    options.data_options.wavelength_m = geometry.wavelength_m
    options.object_options.pixel_size_m = geometry.object_pixel_size_m
    options.object_options.alpha = settings.object_alpha
    options.object_options.step_size = object_step
    # Ours: a position is pixel n // 2 of its patch. pty-chi's: it is the patch's middle, (n - 1) / 2.
    n = geometry.frame_px
    options.object_options.determine_position_origin_coords_by = api.ObjectPosOriginCoordsMethods.SPECIFIED
    options.object_options.position_origin_coords = [(n - 1) / 2 - n // 2] * 2
    options.probe_options.alpha = settings.probe_alpha
    options.probe_position_options.optimizable = False
    options.reconstructor_options.num_epochs = settings.num_epochs
    options.reconstructor_options.batch_size = settings.batch_size
    options.reconstructor_options.random_seed = settings.seed
    on_gpu = torch.cuda.is_available()
    options.reconstructor_options.default_device = api.Devices.GPU if on_gpu else api.Devices.CPU
    # On the CPU the faster algorithms give the same bits every time; on a GPU they do not.
    options.reconstructor_options.allow_nondeterministic_algorithms = not on_gpu
    return options


def _finite_error(task: Any, epoch: int) -> float:
    error = float(task.reconstructor.loss_tracker.table["loss"].iloc[-1])
    if not math.isfinite(error):
        raise RetrievalError(f"phase retrieval diverged in epoch {epoch}: the error is {error}")
    return error


def _array(task: Any, name: str) -> NDArray[np.complex64]:
    return np.array(task.get_data_to_cpu(name, as_numpy=True), np.complex64)


def _phase(transmission: NDArray[np.complex64], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.angle(flatten(transmission, weight)).astype(np.float32)
