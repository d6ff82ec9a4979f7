"""What a trial on real frames chose holds for those who build the model without any."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_networks import frames

from phasing.engines import Engine, EngineOptions, FloatArray, build, build_engine
from phasing.engines.proof import Proof, proof_path, read_proof, write_proof
from phasing.engines.reference import Reference

pytest.importorskip("torch", reason="torch is not installed")
BFLOAT16, FLOAT32 = "torch CPU bfloat16", "torch CPU float32"


class Bench:
    """A model that bfloat16 does for on synthetic frames, and not on `real` ones."""

    def __init__(self, exported: Any, cache: Path) -> None:
        self.onnx_bytes, self.card = exported.onnx_path.read_bytes(), exported.draft
        self.options = EngineOptions(name="torch", precision="bfloat16", threads=1, cache=cache)
        self.real = frames(8)
        loose = replace(self.options, max_difference_rad=1.0, cache=None)
        found = [build_engine(self.onnx_bytes, self.card, loose, counts).difference_rad for counts in (None, self.real)]
        assert found[0] is not None and found[1] is not None and found[0] < found[1]
        self.options = replace(self.options, max_difference_rad=sum(found) / 2)

    def build(self, counts: FloatArray | None = None, **options: Any) -> Engine:
        return build_engine(self.onnx_bytes, self.card, replace(self.options, **options), counts)

    @property
    def path(self) -> Path:
        path = proof_path(self.onnx_bytes, self.card, self.options, ("torch",))
        assert path is not None
        return path


@pytest.fixture
def bench(exported: Any, tmp_path: Path) -> Bench:
    return Bench(exported, tmp_path / "cache")


def test_what_real_frames_refused_is_not_served_without_them(bench: Bench) -> None:
    assert bench.build(cache=None).name == BFLOAT16
    assert bench.build(bench.real).name == FLOAT32
    restarted, consumer = bench.build(), bench.build(parallel=2, threads=2, batch_size=4)
    assert (restarted.name, consumer.name) == (FLOAT32, FLOAT32)
    assert restarted.difference_rad is None


def test_the_difference_is_that_of_the_real_frames(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = bench.build(bench.real, max_difference_rad=1.0)
    monkeypatch.setattr(Reference, "expected_rad", None)
    built = bench.build(max_difference_rad=1.0)
    assert (built.name, built.difference_rad) == (BFLOAT16, tried.difference_rad)
    assert np.array_equal(built.infer(frames(3)), tried.infer(frames(3)))


def test_frames_that_are_there_are_tried_whatever_was_chosen_before(bench: Bench) -> None:
    assert bench.build().name == BFLOAT16
    assert bench.build(bench.real).name == FLOAT32
    assert bench.build(bench.real, max_difference_rad=1.0).name == BFLOAT16


def test_why_nothing_faster_serves_is_told_also_by_those_who_tried_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bench.build(cache=None).remark == ""
    tried = bench.build(bench.real)
    assert re.fullmatch(r"torch CPU bfloat16 differs by 0\.\d+ rad from .*, over 0\.\d+ rad", tried.remark)
    assert bench.build().remark == tried.remark
    monkeypatch.setattr(build, "engine_names_available", lambda: ("tensorrt", "torch"))
    auto = bench.build(bench.real, name="auto")
    assert (auto.name, bench.build(name="auto").remark) == (FLOAT32, auto.remark)
    assert auto.remark.startswith("tensorrt: tensorrt computes in float16")
    assert auto.remark.endswith(tried.remark)


@pytest.mark.parametrize("change", [{"version": "0.1"}, {"precision": "tf32"}, {"engine": "abacus"}, {"name": "other"}])
def test_a_choice_that_no_longer_holds_is_made_again(bench: Bench, change: dict[str, str]) -> None:
    found = bench.build().difference_rad
    chosen = read_proof(bench.path)
    assert chosen is not None and chosen.name == BFLOAT16
    outdated = replace(chosen, difference_rad=9.0, **change)  # type: ignore[arg-type]
    write_proof(bench.path, outdated)
    assert bench.build().difference_rad == found
    # Where another engine serves in its place, that may be for a while.
    assert read_proof(bench.path) == (outdated if change == {"engine": "abacus"} else chosen)


def test_synthetic_frames_do_not_bring_back_what_real_ones_refused(bench: Bench) -> None:
    remark = bench.build(bench.real).remark
    chosen = read_proof(bench.path)
    assert chosen is not None and remark
    write_proof(bench.path, replace(chosen, version="0.1"))
    made_again = bench.build()
    assert (made_again.name, made_again.remark) == (FLOAT32, remark)
    assert read_proof(bench.path) == chosen


def test_a_proof_that_cannot_be_read_is_none(bench: Bench) -> None:
    bench.build(bench.real)
    bench.path.write_bytes(bench.path.read_bytes()[:-1])
    assert read_proof(bench.path) is None
    assert bench.build().name == BFLOAT16
    assert read_proof(None) is None


def test_every_fact_makes_another_proof(bench: Bench) -> None:
    card, options = bench.card, bench.options
    facts = [
        (bench.onnx_bytes, card, options, ("torch",)),
        (b"other", card, options, ("torch",)),
        (bench.onnx_bytes, replace(card, counts_scale=2 * card.counts_scale), options, ("torch",)),
        (bench.onnx_bytes, card, replace(options, precision="float32"), ("torch",)),
        (bench.onnx_bytes, card, replace(options, providers=("cpu",)), ("torch",)),
        (bench.onnx_bytes, card, replace(options, max_difference_rad=0.5), ("torch",)),
        (bench.onnx_bytes, card, options, ("tensorrt", "torch")),
    ]
    assert len({proof_path(*each) for each in facts}) == len(facts)
    assert proof_path(bench.onnx_bytes, card, replace(options, threads=7, parallel=3), ("torch",)) == bench.path


def test_a_proof_comes_back_as_it_was(tmp_path: Path) -> None:
    proof = Proof("torch", "bfloat16", BFLOAT16, "2.14.1", 0.1 + 0.2, "no faster")
    write_proof(tmp_path / "one.proof", proof)
    assert read_proof(tmp_path / "one.proof") == proof
