"""The TensorRT engine's own part, on stand-ins for TensorRT and CUDA; what needs a GPU is in test_engines_gpu.py."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_networks import SIDE_PX, frames, small_network
from fake_cuda import FakeRuntime, FakeTensorRt

from phasing.engines import Engine, EngineOptions, build_engine, cuda_memory, tensorrt_engine
from phasing.engines.cache import write_cached
from phasing.engines.tensorrt_engine import Plan
from phasing.errors import MissingExtra, ModelError

ANY = (-1, 1, SIDE_PX, SIDE_PX)


class Bench:
    """Builds engines on one stand-in GPU."""

    def __init__(self, exported: Any, monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
        self.card, self.cache, self._patch = exported.draft, cache, monkeypatch
        self.runtime = FakeRuntime()

    def build(
        self, shape: tuple[int, ...] = ANY, *, version: str = "11.4.0", **options: Any
    ) -> tuple[Engine, FakeTensorRt]:
        library = FakeTensorRt(self.runtime, shape, version)
        self._patch.setattr(tensorrt_engine, "tensorrt_library", lambda: library)
        self._patch.setattr(tensorrt_engine, "cuda_runtime", lambda: self.runtime)
        network = small_network([("b", *shape[1:])], [("b", *shape[1:])])
        wanted = EngineOptions(name="tensorrt", cache=self.cache, **options)
        return build_engine(network, self.card, wanted), library

    def expected_rad(self, counts: np.ndarray) -> np.ndarray:
        return np.pi * np.tanh(counts * np.float32(self.card.counts_scale))


@pytest.fixture
def bench(exported: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(exported, monkeypatch, tmp_path / "cache")


@pytest.mark.parametrize("fixed", [None, 8])
def test_any_number_of_frames_goes_through_graphs_of_a_few_sizes(bench: Bench, fixed: int | None) -> None:
    engine, facts = bench.build((fixed or -1, *ANY[1:]), batch_size=12, precision="float32")
    assert engine.batch_size == fixed
    assert facts.profile == (() if fixed else ("given", (1, *ANY[1:]), (12, *ANY[1:]), (12, *ANY[1:])))
    for num in (1, 3, 8, 12, 30):
        bench.runtime.launches.clear()
        counts = frames(num)
        assert np.abs(engine.infer(counts) - bench.expected_rad(counts)).max() < 1e-5
        assert len(bench.runtime.launches) == -(-num // (fixed or 12))


def test_parallel_callers_have_buffers_of_their_own_and_all_is_freed(bench: Bench) -> None:
    engine, _ = bench.build(parallel=3, precision="float32")
    inputs = [frames(1 + caller, seed=caller) for caller in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda counts: [engine.infer(counts) for _ in range(50)], inputs))
    for counts, several in zip(inputs, answers, strict=True):
        assert max(np.abs(answer - bench.expected_rad(counts)).max() for answer in several) < 1e-5
    engine.close()
    assert bench.runtime.alive == {}


@pytest.mark.parametrize(("precision", "tf32"), [("float32", False), ("tf32", True), ("float16", False)])
def test_precision_is_the_tf32_switch_or_the_networks_own_types(bench: Bench, precision: str, tf32: bool) -> None:
    engine, facts = bench.build(precision=precision)
    assert engine.name == f"tensorrt {precision}"
    assert facts.tf32 == tf32
    assert (engine.difference_rad is None) == (precision == "float32")
    assert (b"Cast" in facts.parsed) == (precision == "float16")


def test_engine_and_timings_are_kept_and_only_used_where_they_were_made(bench: Bench) -> None:
    _, first = bench.build()
    _, second = bench.build()
    assert (first.builds, second.builds) == (1, 0)
    assert first.timings_given == b""
    _, larger = bench.build(batch_size=16)
    assert (larger.builds, larger.timings_given) == (1, b"timings")
    _, newer = bench.build(version="12.0.0")
    assert (newer.builds, newer.timings_given) == (1, b"")
    bench.runtime = FakeRuntime(name="Other GPU")
    assert bench.build()[1].builds == 1
    bench.runtime = FakeRuntime(driver=13010)
    assert bench.build()[1].builds == 1


def test_an_engine_on_disk_needs_no_half_network(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.build(precision="float16")
    monkeypatch.setattr(tensorrt_engine, "half_network", None)
    engine, facts = bench.build(precision="float16")
    assert (engine.name, facts.builds) == ("tensorrt float16", 0)


def test_an_engine_on_disk_that_cannot_be_loaded_is_built_again(bench: Bench) -> None:
    bench.build()
    for path in bench.cache.glob("*.tensorrt"):
        write_cached(path, b"of another build of the library")
    assert bench.build()[1].builds == 1
    for path in bench.cache.iterdir():
        path.write_bytes(b"torn")
    _, facts = bench.build()
    assert (facts.builds, facts.timings_given) == (1, b"")


def test_every_fact_of_a_plan_makes_another_engine() -> None:
    plan = Plan("digest", "GPU sm_90", "11.4", "float16", 8)
    others = [
        Plan("other", "GPU sm_90", "11.4", "float16", 8),
        Plan("digest", "GPU sm_89", "11.4", "float16", 8),
        Plan("digest", "GPU sm_90", "11.5", "float16", 8),
        Plan("digest", "GPU sm_90", "11.4", "tf32", 8),
        Plan("digest", "GPU sm_90", "11.4", "float16", 16),
    ]
    assert len({each.engine_facts() for each in (plan, *others)}) == 6
    assert {each.timing_facts() for each in others} - {plan.timing_facts()} == {
        ("GPU sm_89", "11.4"),
        ("GPU sm_90", "11.5"),
    }


def test_the_parsers_reason_is_one_line(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt_engine, "half_network", lambda content: b"no network")
    with pytest.raises(ModelError, match=r"cannot be built by tensorrt: not ONNX at all$"):
        bench.build(precision="float16", max_difference_rad=1.0)


def test_a_failing_call_names_itself_and_leaves_nothing_behind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemory(int):
        name = "cudaErrorMemoryAllocation"

    monkeypatch.setattr(FakeRuntime, "cudaGraphInstantiate", lambda self, graph, flags: (NoMemory(2), None))
    with pytest.raises(ModelError, match="cudaErrorMemoryAllocation"):
        bench.build(precision="float32", parallel=2)
    assert bench.runtime.alive == {}


def test_what_is_missing_is_named(exported: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    options = EngineOptions(name="tensorrt")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingExtra, match=r"tensorrt .*phaseline\[tensorrt\]"):
        build_engine(exported.onnx_path.read_bytes(), exported.draft, options)
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingExtra, match=r"cuda-bindings .*phaseline\[tensorrt\]"):
        cuda_memory.cuda_runtime()
