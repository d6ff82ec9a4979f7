"""The measurements of the workflow with tiny numbers: they run, and what they say adds up."""

import pytest

from benchmarks import flow_announce, flow_runner
from benchmarks.flow_pool import durations_s, ideal_makespan_s


def test_the_ideal_schedule_begins_each_job_when_a_slot_is_free():
    assert ideal_makespan_s([3.0, 1.0, 1.0, 2.0], slots=2) == 4.0
    assert ideal_makespan_s([3.0, 1.0], slots=64) == 3.0
    assert durations_s(5, shortest_s=1, longest_s=5, seed=1) == durations_s(5, shortest_s=1, longest_s=5, seed=1)


def test_many_runs_on_a_pool_are_first_in_first_out_and_none_beats_the_ideal(tmp_path):
    jobs_s = durations_s(24, shortest_s=0.05, longest_s=0.2, seed=1)
    assert flow_runner.makespan_s(tmp_path / "runs", jobs_s, slots=8) >= ideal_makespan_s(jobs_s, 8)


def test_the_cost_of_a_step_is_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(flow_runner, "STEPPED_RUNS", 3)
    assert flow_runner.step_ms(tmp_path / "steps") > 0


def test_from_the_end_of_a_scan_to_the_announcement_of_its_model(tmp_path, network):
    (figure,) = flow_announce.measure(tmp_path / "announce", network, scans=2, frames=40)
    assert figure.key == "announce_overhead_s"
    assert figure.value > 0
    assert min(figure.detail["work_s"]) > 0


def test_one_scan_alone_is_refused():
    with pytest.raises(flow_announce.BenchmarkError, match="one scan is not enough"):
        flow_announce._figure([flow_announce.Timed(0.0, 2.0, 1.0)])
