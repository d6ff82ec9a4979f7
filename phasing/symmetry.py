"""The eight turns and mirrorings of a square patch, and which of them a probe allows.

A frame's intensity is that of the Fourier transform of probe times sample. Turn or mirror the frame about zero
frequency, and it is the frame of the turned sample under the turned probe; that is another measurement with the same
probe only where the turned probe is the probe. So what may be done to pairs is read off the reconstructed probe.
"""

from __future__ import annotations

from itertools import product
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Number = TypeVar("Number", bound=np.generic)

OPERATIONS = tuple(product((False, True), (False, True), (False, True)))
"""Transpose, then flip rows, then flip columns; the first is no change at all."""


def turned(patches: NDArray[Number], operation: int) -> NDArray[Number]:
    """Patches (..., n, n) turned by OPERATIONS[operation] about the pixel [n // 2, n // 2], which stays where it is.

    Where n is even, the row and column of index 0 have no mirror image and stay, as those of the highest frequency do.
    """
    transpose, *flips = OPERATIONS[operation]
    if transpose:
        patches = patches.swapaxes(-1, -2)
    for axis, flip in zip((-2, -1), flips, strict=True):
        if flip:
            patches = np.flip(patches, axis)
            if patches.shape[axis] % 2 == 0:
                patches = np.roll(patches, 1, axis)
    return patches


def probe_overlaps(probe: NDArray[np.complexfloating[Any, Any]]) -> tuple[float, ...]:
    """How far the probe (M, n, n), incoherent modes, is its own image under each operation: 1 for the same, 0 for none.

    The overlap is |<p, turned p>| / <p, p>, summed over the modes; a constant phase between the two does not matter.
    """
    power = float(np.sum(np.abs(probe) ** 2))
    overlaps = (sum(abs(np.vdot(mode, turned(mode, k))) for mode in probe) for k in range(len(OPERATIONS)))
    return tuple(float(overlap) / power for overlap in overlaps)
