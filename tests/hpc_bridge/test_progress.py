import math

import pytest

from hpc_bridge.progress import ProgressReader, ProgressWriter


def test_lines_are_read_as_they_are_written(tmp_path):
    path = tmp_path / "run" / "progress.jsonl"
    reader = ProgressReader(path)
    assert reader.read() == []
    with ProgressWriter(path) as writer:
        writer.write("epoch", epoch=1, error=0.5)
        first = reader.read()
        assert [(line["event"], line["epoch"], line["error"]) for line in first] == [("epoch", 1, 0.5)]
        assert first[0]["t"] > 1e9
        assert reader.read() == []
        writer.write("epoch", epoch=2)
        writer.write("ended")
        assert [line["event"] for line in reader.read()] == ["epoch", "ended"]


def test_a_partial_last_line_waits_for_its_rest(tmp_path):
    path = tmp_path / "progress.jsonl"
    reader = ProgressReader(path)
    path.write_bytes(b'{"event": "a"}\n{"event": ')
    assert reader.read() == [{"event": "a"}]
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(b'"b"}\n')
    assert reader.read() == [{"event": "b"}]


def test_a_line_cut_by_a_kill_does_not_spoil_the_next_attempt(tmp_path):
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"event": "epoch", "epo')
    with ProgressWriter(path) as writer:
        writer.write("started")
    assert [line["event"] for line in ProgressReader(path).read()] == ["started"]


def test_what_is_not_json_is_refused_and_no_path_writes_nothing(tmp_path):
    with ProgressWriter(tmp_path / "p") as writer, pytest.raises(ValueError, match="JSON"):
        writer.write("epoch", error=math.nan)
    with ProgressWriter(None) as writer:
        writer.write("epoch")
