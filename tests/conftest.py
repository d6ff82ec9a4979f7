"""What holds for all tests: a busy machine may take its time, and a process that hangs does not hold up the others."""

import resource
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

import iocs.client

PATIENCE_S = 600.0
FullDisk = Callable[[int], AbstractContextManager[None]]
Limited = Callable[[subprocess.Popen[Any]], AbstractContextManager[subprocess.Popen[Any]]]


@pytest.fixture(scope="session", autouse=True)
def patient_clients() -> Iterator[None]:
    """Patience costs nothing when all is well."""
    patch = pytest.MonkeyPatch()
    for name in ("GET_S", "PUT_S", "CONNECT_S"):
        patch.setattr(iocs.client, name, PATIENCE_S)
    yield
    patch.undo()


@pytest.fixture
def full_disk() -> FullDisk:
    """For the length of a block, the operating system refuses to make any file longer than so many bytes."""
    return _full_disk


@contextmanager
def _full_disk(room_bytes: int) -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.fixture
def limited() -> Limited:
    """A child for the length of a block, killed in the end or when the block takes too long: no read of it hangs."""
    return _limited


@contextmanager
def _limited(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    timer = threading.Timer(PATIENCE_S, process.kill)
    timer.start()
    with process:
        try:
            yield process
        finally:
            timer.cancel()
            timer.join()
            process.kill()
