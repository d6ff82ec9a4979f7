"""What heavy work may take of this machine: cores, a GPU where there is one, short floats where they are fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def cores_available() -> int:
    """The cores that this process may use; batch systems and `taskset` are respected."""
    return len(os.sched_getaffinity(0))


def spare_cores() -> int:
    """All cores of this process but one, at least one.

    Streaming and serving run beside. Threads that share every parallel step wait for the slowest of them: on two
    cores, one of them busy, training with two threads was measured ten times slower than with one.
    """
    return max(1, cores_available() - 1)


@contextmanager
def torch_set_up(seed: int, threads: int | None, *, repeatable: bool = False) -> Iterator[None]:
    """Seed torch and give it some threads, None for all cores but one; both are put back afterwards.

    repeatable: have cuDNN take no algorithm that gives another result at the next run. PyTorch's switch for all
    operations is not used: upsampling then made training on an H200 four times slower (phasing.network.Doubling).
    """
    import torch

    before, was_repeatable = torch.get_num_threads(), torch.backends.cudnn.deterministic
    torch.set_num_threads(threads or spare_cores())
    torch.backends.cudnn.deterministic = repeatable
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            yield
    finally:
        torch.backends.cudnn.deterministic = was_repeatable
        torch.set_num_threads(before)


def device_name(wanted: str) -> str:
    """The torch device to use: what was asked for, or, for auto, a GPU where there is one."""
    import torch

    if wanted != "auto":
        return wanted
    return "cuda" if torch.cuda.is_available() else "cpu"


def short_float(device: torch.device, precision: str) -> torch.dtype | None:
    """The short float that a network learns with beside float32; None for float32 alone.

    precision: one of phasing.rounds.PRECISIONS; auto is bfloat16 where the hardware has it, else float16 on a GPU.
    """
    import torch

    if precision == "auto":
        if has_bfloat16(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else None
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[precision]


def has_bfloat16(device: torch.device) -> bool:
    """Whether the hardware computes with bfloat16; where it is emulated it is slower than float32."""
    import torch

    if device.type != "cpu":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
