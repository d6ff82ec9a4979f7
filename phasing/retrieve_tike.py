"""rPIE by tike (https://github.com/AdvancedPhotonSource/tike), the paper's engine, on one or several CUDA GPUs."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phasing.errors import MissingExtra, RetrievalError
from phasing.initial import valid_pixels
from phasing.retrieval_engine import Problem, Solver


@contextmanager
def solver(problem: Problem) -> Iterator[Solver]:
    """Begin to solve; raises MissingExtra without CuPy, RetrievalError without tike or enough GPUs."""
    try:
        import cupy
    except ImportError as error:
        raise MissingExtra("cupy", "tike") from error
    _require_gpus(cupy, problem.settings.num_gpus)  # tike cannot even be imported without one
    try:
        import tike.ptycho
        import tike.random
    except ImportError as error:
        why = "what it says that it needs is a numpy that is too old for phaseline"
        raise RetrievalError(f"tike is not installed: pip install --no-deps tike ({why})") from error
    logging.getLogger("tike").setLevel(logging.ERROR)
    tike.random.randomizer_np = np.random.default_rng(problem.settings.seed)
    data = np.ascontiguousarray(np.fft.ifftshift(problem.counts, axes=(1, 2)))
    with tike.ptycho.Reconstruction(data, _parameters(tike.ptycho, problem), problem.settings.num_gpus) as context:
        yield _Tike(context)


class _Tike:
    """tike's Fourier transform is orthonormal: its probe is ours."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def step(self) -> float:
        self._context.iterate(1)
        return float(np.mean(self._context.parameters.algorithm_options.costs[-1]))

    def object(self) -> NDArray[np.complex64]:
        return np.asarray(self._context.get_psi()[0], np.complex64)

    def probe(self) -> NDArray[np.complex64]:
        return np.asarray(self._context.get_probe()[0][0, 0], np.complex64)


def _require_gpus(cupy: Any, wanted: int) -> None:
    try:
        found = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError:
        found = 0
    if found < wanted:
        raise RetrievalError(f"tike needs {wanted} CUDA GPU{'s' * (wanted > 1)}, and {found} are here")


def _parameters(ptycho: Any, problem: Problem) -> Any:
    settings = problem.settings
    n = problem.counts.shape[-1]
    return ptycho.PtychoParameters(
        probe=problem.probe[None, None],
        psi=problem.object[None],
        # Ours: where pixel n // 2 of a patch lies. tike's: where its first pixel does.
        scan=(problem.index - n // 2).astype(np.float32),
        algorithm_options=ptycho.RpieOptions(
            num_batch=math.ceil(len(problem.index) / settings.batch_size),
            num_iter=settings.num_epochs,
            alpha=settings.object_alpha,
            # The probe begins with the frames' photons; what tike would do every so many epochs is not wanted.
            rescale_period=settings.num_epochs + 1,
        ),
        exitwave_options=ptycho.ExitWaveOptions(measured_pixels=np.fft.ifftshift(valid_pixels(problem.scan))),
        probe_options=ptycho.ProbeOptions(init_rescale_from_measurements=False),
        object_options=ptycho.ObjectOptions(),
    )
