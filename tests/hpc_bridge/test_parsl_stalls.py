"""Which blocks hold tasks that nobody begins, told from what the interchange and the workers say."""

import pytest

from hpc_bridge import parsl_stalls
from hpc_bridge.parsl_stalls import Stalls


@pytest.fixture
def stalls(tmp_path, monkeypatch):
    monkeypatch.setattr(parsl_stalls, "ASK_S", -1.0)
    return Stalls(tmp_path, stall_s=-1.0)


def managers(**tasks):
    return lambda: [{"block_id": block, "tasks": number} for block, number in tasks.items()]


def test_a_block_that_holds_more_than_it_has_begun_is_stalled(stalls, tmp_path):
    (tmp_path / "a.begun").write_text("x")
    assert stalls.look(["a", "b"], managers(x=1)) == []
    assert stalls.look(["a", "b"], managers(x=1, y=1)) == ["y"]
    (tmp_path / "b.begun").write_text("y")
    assert stalls.look(["a", "b"], managers(x=1, y=1)) == []


def test_a_block_has_time_to_begin(stalls, tmp_path):
    patient = Stalls(tmp_path, stall_s=600.0)
    assert patient.look(["a"], managers(x=1)) == []
    assert stalls.look(["a"], managers(x=1)) == ["x"]
