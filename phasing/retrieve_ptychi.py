"""rPIE by pty-chi, on a CPU or one GPU."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from phasing.compute import torch_set_up
from phasing.errors import MissingExtra
from phasing.geometry import Geometry
from phasing.initial import valid_pixels
from phasing.reconstruction import illumination, probe_intensity
from phasing.retrieval_engine import Problem, Solver

if TYPE_CHECKING:
    from phasing.retrieve_settings import RetrieveSettings


@contextmanager
def solver(problem: Problem) -> Iterator[Solver]:
    """Begin to solve; raises MissingExtra when pty-chi is not installed."""
    try:
        from ptychi.api.task import PtychographyTask
    except ImportError as error:
        raise MissingExtra("ptychi", "hpc") from error
    geometry = problem.scan.geometry
    with (
        _quiet_torch(problem.settings),
        PtychographyTask(
            _options(geometry, problem.settings, _object_step(problem)),
            diffraction_data=problem.counts,
            object_data=problem.object[None],
            probe_data=problem.probe[None] / geometry.frame_px,
            probe_position_y_px=problem.index[:, 0],
            probe_position_x_px=problem.index[:, 1],
            valid_pixel_mask=valid_pixels(problem.scan),
        ) as task,
    ):
        yield _Ptychi(task, geometry.frame_px)


class _Ptychi:
    """pty-chi's Fourier transform is not orthonormal: its probe is ours over n."""

    def __init__(self, task: Any, frame_px: int) -> None:
        self._task, self._frame_px = task, frame_px

    def step(self) -> float:
        self._task.run(1)
        return float(self._task.reconstructor.loss_tracker.table["loss"].iloc[-1])

    def object(self) -> NDArray[np.complex64]:
        return np.asarray(self._array("object")[0])

    def probe(self) -> NDArray[np.complex64]:
        return np.asarray(self._array("probe")[0] * self._frame_px, np.complex64)

    def _array(self, name: str) -> NDArray[np.complex64]:
        return np.array(self._task.get_data_to_cpu(name, as_numpy=True), np.complex64)


@contextmanager
def _quiet_torch(settings: RetrieveSettings) -> Iterator[None]:
    """Threads, seed and silence for one reconstruction."""
    import torch

    # pty-chi draws progress bars and logs every epoch at level INFO; progress is the caller's matter here.
    logging.getLogger("ptychi").setLevel(logging.ERROR)
    with torch_set_up(settings.seed, settings.threads), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True to a scalar", UserWarning)
        try:
            yield
        finally:
            torch.set_default_device(None)  # pty-chi's is the GPU, and whoever works in this process next would get it


def _object_step(problem: Problem) -> float:
    """Share of rPIE's step that is taken.

    pty-chi adds up what the frames of a batch want; where they overlap that is more than one step, and diverges.
    """
    intensity = probe_intensity(problem.probe)
    alpha = problem.settings.object_alpha
    wanted = intensity / ((1 - alpha) * intensity + alpha * intensity.max())
    share = min(1.0, problem.settings.batch_size / len(problem.index))
    overlap = illumination(problem.object.shape, wanted, problem.index).max() * share
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
