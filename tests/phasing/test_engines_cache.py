import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_networks import frames

from phasing.engines import EngineOptions, build_engine
from phasing.engines.cache import cache_path, kept_folder, read_cached, write_cached
from phasing.engines.reference import Reference

openvino = pytest.importorskip("openvino", reason="openvino is not installed")


def answer(exported: Any, cache: Path | None) -> np.ndarray:
    options = EngineOptions(name="openvino", threads=1, max_difference_rad=1.0, cache=cache)
    engine = build_engine(exported.onnx_path.read_bytes(), exported.draft, options)
    try:
        return engine.infer(frames(3))
    finally:
        engine.close()


def test_the_second_build_compiles_nothing_and_measures_nothing(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = EngineOptions(name="openvino", threads=1, max_difference_rad=1.0, cache=tmp_path / "cache")
    onnx_bytes, counts = exported.onnx_path.read_bytes(), frames(3)
    first = build_engine(onnx_bytes, exported.draft, options, counts)
    monkeypatch.setattr(openvino.Core, "compile_model", None)
    monkeypatch.setattr(Reference, "expected_rad", None)
    second = build_engine(onnx_bytes, exported.draft, options)
    assert np.array_equal(second.infer(counts), first.infer(counts))
    assert (second.name, second.difference_rad) == (first.name, first.difference_rad)


@pytest.mark.parametrize("damage", ["cut", "emptied", "one bit", "of another library", "a folder"])
def test_a_corrupted_cache_does_not_break_the_build(exported: Any, tmp_path: Path, damage: str) -> None:
    expected = answer(exported, None)
    answer(exported, tmp_path)
    (path,) = tmp_path.glob("*.openvino")
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "emptied":
        path.write_bytes(b"")
    elif damage == "one bit":
        path.write_bytes(whole[:1000] + bytes([whole[1000] ^ 1]) + whole[1001:])
    elif damage == "of another library":
        write_cached(path, b"a blob with the right checksum that nobody can read")
    else:
        path.unlink()
        path.mkdir()
    if damage != "of another library":
        assert read_cached(path) is None
    assert np.array_equal(answer(exported, tmp_path), expected)
    if damage != "a folder":
        assert read_cached(path) is not None
        assert len(path.read_bytes()) > 1000


def test_a_folder_that_cannot_be_written_costs_no_more_than_time(exported: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    assert np.array_equal(answer(exported, tmp_path / "file" / "cache"), answer(exported, None))


def test_every_fact_makes_another_file_and_few_files_are_kept(tmp_path: Path) -> None:
    facts = [("model", "cpu", 1), ("other", "cpu", 1), ("model", "gpu", 1), ("model", "cpu", 2)]
    assert len({cache_path(tmp_path, "kind", *each) for each in facts}) == len(facts)
    assert cache_path(None, "kind", "model") is None
    for number in range(40):
        write_cached(cache_path(tmp_path, "kind", number), b"%d" % number)
    kept = cache_path(tmp_path, "kind", 39)
    assert read_cached(kept) == b"39"
    assert len(list(tmp_path.iterdir())) == 16
    assert read_cached(None) is None


def test_few_folders_are_kept_those_used_last(tmp_path: Path) -> None:
    paths = [cache_path(tmp_path, "kind", number) for number in range(17)]
    for age_s, path in enumerate(paths[:16]):
        assert kept_folder(path) == path
        (path / "engine").write_bytes(b"compiled")
        os.utime(path, (1e9 + age_s, 1e9 + age_s))
    assert kept_folder(paths[0]) == paths[0]
    kept_folder(paths[16])
    assert set(tmp_path.iterdir()) == {paths[0], *paths[2:]}
    assert (paths[0] / "engine").exists()


def test_a_folder_that_the_disk_refuses_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    assert kept_folder(cache_path(tmp_path / "file", "kind", 1)) is None
    assert "is not kept" in caplog.text
    assert kept_folder(None) is None


def test_a_file_appears_as_a_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = cache_path(tmp_path, "kind", "fact")

    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    write_cached(path, b"content")
    assert list(tmp_path.iterdir()) == []
