"""Every measurement runs with tiny numbers and gives its figures; how large they are is nobody's business here."""

import json

import numpy as np
import pytest

from benchmarks import authors, engine, gpu, live, memory, receive, whole_edge
from benchmarks.drive import Rig
from benchmarks.engine import Setup
from benchmarks.frames import STREAM

SETUP = Setup("onnxruntime", "float32", threads=1, parallel=1, batch_size=4)


def figures_by_key(figures):
    found = {figure.key: figure for figure in figures}
    for figure in figures:
        json.dumps(figure.to_json())
        assert figure.value is None or np.isfinite(figure.value)
    return found


def test_bare_engines(material):
    chosen = engine.finalists(material, seconds=0.01, batches=(1, 2), passes=1, duels=1)
    found = figures_by_key(engine.measure(material, chosen, rounds=1, seconds=0.02))
    assert set(found) == {"engine_ratio", "engine_difference_rad"}
    assert found["engine_ratio"].value > 0
    assert chosen.reference.name == "onnxruntime"


@pytest.mark.usefixtures("patient")
def test_whole_edge_loses_nothing_at_a_low_rate(material, network, tmp_path):
    with engine.bench(material, SETUP) as bare:
        measured = whole_edge.run(material, tmp_path, network, bare, batches=(4,), seconds=0.3, trials=1, burst=64)
        beside_hz = whole_edge.beside_stream(material, tmp_path / "beside", bare, 20.0, seconds=0.1)
    found = figures_by_key(whole_edge.figures(measured, SETUP, beside_hz))
    assert set(found) == {"edge_fps", "edge_over_engine"}
    assert len(measured.trials) == 1 and measured.trials[0]["lost"] == 0


def test_authors_arrangement(material, network, tmp_path):
    ours = authors.Ours(rate_hz=100.0, bare_hz=200.0, bare=lambda: 200.0)
    two = authors.Arrangement(consumers=2, threads=1, spin=False)
    found = figures_by_key(
        authors.measure(material, tmp_path, ours, guess_hz=40.0, seconds=0.5, trials=1, tried={2: [two]})
    )
    assert set(found) == {"authors_fps", "edge_over_authors"}
    assert found["edge_over_authors"].detail["consumers"][2]["trials"]


@pytest.mark.parametrize("side_px", [128, 512])
def test_receive(material, network, tmp_path, side_px):
    found = figures_by_key(receive.measure(material, tmp_path, side_px=side_px, seconds=0.1, trials=1))
    assert set(found) == {f"receive_fps_{side_px}"}


@pytest.mark.usefixtures("patient")
def test_latency_and_swap(material, network, tmp_path):
    found = figures_by_key(live.measure(material, tmp_path, network, rate_hz=40.0, seconds=1.0, swaps=1, quiet_s=0.2))
    assert set(found) == {"latency_median_ms", "latency_p99_ms", "swap_lost", "swap_gap_periods"}
    assert found["latency_median_ms"].detail["viewer_ms"] > 0
    assert found["swap_lost"].value == 0
    assert all("at 40 frames/s" in figure.note for figure in found.values())


@pytest.mark.parametrize(("sustained_hz", "chosen_hz"), [(1000.0, 200.0), (250.0, 200.0), (157.0, 70.0), (3.0, 10.0)])
def test_a_machine_is_asked_for_what_it_can_live_at(sustained_hz, chosen_hz):
    assert live.chosen_hz(sustained_hz) == chosen_hz


@pytest.mark.usefixtures("patient")
def test_memory(material, network, tmp_path):
    found = figures_by_key(memory.measure(material, tmp_path, network, frames=140, settled=60))
    detail = found["memory_growth_percent"].detail
    assert detail["published"] == detail["frames"] == 140
    assert min(detail["rss_mib"]) > 10


def test_without_a_gpu_it_says_so(material, network, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "present", lambda: False)
    assert [figure.note for figure in gpu.measure(material, tmp_path, network)] == ["no GPU", "no GPU"]


@pytest.mark.usefixtures("patient")
def test_the_publisher_keeps_its_ids_and_ends_when_told(material, network, tmp_path):
    with Rig(tmp_path, material) as rig:
        rig.view(arguments=[STREAM])
        rig.connect(num=4)
        run = rig.run(1000.0, 200, lead=20)
        assert run.lost == 0 and run.first == run.start + 20
        assert (run.latency_s > 0).all()
        first = rig.begin(1000.0, 10**6)
        rig.stop()
        ended = rig.finish(first)
        assert len(ended.sent_ns) < 10**6 and ended.lost == 0
        assert rig.run(1000.0, 10, lead=0).start == ended.last + 1
