import os

import pytest


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    """Frames and models of a run, fewer than usual, made as usual: in a process of its own."""
    from benchmarks.frames import Material
    from benchmarks.processes import Child

    folder = tmp_path_factory.mktemp("material")
    with Child(["-m", "benchmarks.frames", str(folder), "24", "4"], folder / "frames.log"):
        return Material(folder)


@pytest.fixture
def patient(monkeypatch):
    """What is late on a busy machine is waited for: here it counts whether it comes, not when."""
    monkeypatch.setattr("benchmarks.drive.QUIET_S", 20.0)
    monkeypatch.setattr("benchmarks.drive.SEEN_QUIET_S", 60.0)
    monkeypatch.setattr("benchmarks.edge_ioc.SETTLE_S", 60.0)
    monkeypatch.setattr("benchmarks.live.SWAP_LIMIT_S", 240.0)  # a trial has the lowest priority


@pytest.fixture(scope="module")
def network():
    """Ports of this module alone, in the environment that its children inherit."""
    from benchmarks.processes import free_network, set_environment

    before = dict(os.environ)
    network = free_network()
    set_environment(network)
    yield network
    os.environ.clear()
    os.environ.update(before)
