"""Recordings: what is written is read, whatever happens to the disk or the writer."""

import math
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from phasing.errors import DiskRefused, ScanFileError
from phasing.recording import (
    EMPTY_BYTES,
    LatePosition,
    Recorded,
    RecordingWriter,
    is_being_written,
    is_recording,
    read_recording,
)
from phasing.recordingfolder import QuotaExceeded, RecordingFolder
from phasing.scanwriter import part_path
from phasing.stitch import StitchedMap

FullDisk = Callable[[int], AbstractContextManager[None]]


def predictions(num: int, frame_px: int = 128, first: int = 0) -> list[Recorded]:
    rng = np.random.default_rng(first)
    return [
        Recorded(
            unique_id=1000 + 3 * index,
            time_ns=1_800_000_000_000_000_001 + 500_000 * index,
            phase_rad=rng.normal(size=(frame_px, frame_px)).astype(np.float32),
            position_m=None if index % 5 == 4 else (1e-6 * index, -2e-6 * index),
            model_version=7 + index // 20,
            mismatch=index % 7 == 3,
        )
        for index in range(first, first + num)
    ]


def stitched_map(side_px: int) -> StitchedMap:
    weight = np.random.default_rng(side_px).random((side_px, side_px + 3)).astype(np.float32)
    return StitchedMap(np.where(weight > 0.5, weight, np.float32(np.nan)), weight, (1e-6 * side_px, -3e-6), 4e-8)


def write(path: Path, written: list[Recorded], *maps: StitchedMap) -> Path:
    writer = RecordingWriter(path, "scan 1", written[0].phase_rad.shape[0])
    for prediction in written:
        writer.append(prediction)
    for stitched in maps:
        writer.write_map(stitched)
    return writer.close()


def check(path: Path, written: list[Recorded]) -> None:
    """A recording holds just these predictions, in their order."""
    found = read_recording(path)
    assert found.num_frames == len(written)
    assert found.unique_id.tolist() == [one.unique_id for one in written]
    assert found.time_ns.tolist() == [one.time_ns for one in written]
    assert found.model_version.tolist() == [one.model_version for one in written]
    assert found.mismatch.tolist() == [one.mismatch for one in written]
    positions = [one.position_m or (math.nan, math.nan) for one in written]  # of no test here are they still to come
    np.testing.assert_array_equal(found.position_m, np.reshape(positions, (-1, 2)))
    if written:
        np.testing.assert_array_equal(found.phase_rad(), [one.phase_rad for one in written])


@pytest.mark.parametrize(("num", "frame_px"), [(1, 128), (16, 128), (45, 128), (3, 700), (3000, 4)])
def test_what_is_written_is_read(tmp_path: Path, num: int, frame_px: int) -> None:
    written = predictions(num, frame_px)
    path = write(tmp_path / "a.h5", written)
    check(path, written)
    found = read_recording(path)
    assert (found.scan_id, found.frame_px, found.stitched) == ("scan 1", frame_px, None)
    np.testing.assert_array_equal(found.phase_rad(num - 1, num + 9), [written[-1].phase_rad])
    assert [one.name for one in tmp_path.iterdir()] == ["a.h5"]


def test_it_says_its_units(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", predictions(2), stitched_map(5))
    with h5py.File(path) as file:
        units = {name: item.attrs.get("units") for name, item in file["entry_1/data_1"].items()}
        assert units == {
            "phase_rad": "rad", "position_m": "m", "time_ns": "ns", "unique_id": None, "model_version": None,
            "mismatch": None,
        }  # fmt: skip
        units = {name: item.attrs["units"] for name, item in file["entry_1/map_1"].items()}
        assert units == {"phase_rad": "rad", "weight": "1", "origin_m": "m", "pixel_size_m": "m"}


@pytest.mark.parametrize("sides", [(300,), (10, 600), (600, 10)])
def test_the_last_map_is_kept(tmp_path: Path, sides: tuple[int, ...]) -> None:
    maps = [stitched_map(side) for side in sides]
    found = read_recording(write(tmp_path / "a.h5", predictions(2), *maps)).stitched
    assert found is not None
    np.testing.assert_array_equal(found.phase_rad, maps[-1].phase_rad)
    np.testing.assert_array_equal(found.weight, maps[-1].weight)
    assert (found.origin_m, found.pixel_size_m) == (maps[-1].origin_m, maps[-1].pixel_size_m)


def test_maps_replaced_take_no_more_room(tmp_path: Path) -> None:
    once = write(tmp_path / "a.h5", predictions(2), stitched_map(500))
    often = write(tmp_path / "b.h5", predictions(2), *(stitched_map(500) for _ in range(20)))
    assert often.stat().st_size < once.stat().st_size + EMPTY_BYTES


@pytest.mark.parametrize(("num", "frame_px", "side_px"), [(1, 128, 10), (400, 64, 700), (33, 128, 256), (5000, 4, 5)])
def test_a_file_is_never_larger_than_was_said(tmp_path: Path, num: int, frame_px: int, side_px: int) -> None:
    writer = RecordingWriter(tmp_path / "a.h5", "s", frame_px)
    assert writer.size_bytes < EMPTY_BYTES
    said, stitched = writer.most_bytes(num_more=num, stitched=stitched_map(side_px)), stitched_map(side_px)
    for number, prediction in enumerate(predictions(num, frame_px)):
        writer.append(prediction)
        if number % 50 == 0:
            writer.flush()
    writer.write_map(stitched)
    assert writer.size_bytes <= writer.most_bytes() <= said
    assert writer.close().stat().st_size <= said


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "a.h5", "s", 8)
    with pytest.raises(ScanFileError, match="does not fit"):
        writer.append(predictions(1, 9)[0])
    with pytest.raises(ScanFileError, match="exists"):
        RecordingWriter(tmp_path / "a.h5", "s", 8)
    writer.close()
    with pytest.raises(ScanFileError, match="exists"):
        RecordingWriter(tmp_path / "a.h5", "s", 8)
    (tmp_path / "b.h5").write_bytes(b"something else")
    with h5py.File(tmp_path / "c.h5", "w"):
        pass
    for name in ("b.h5", "c.h5", "d.h5"):
        assert not is_recording(tmp_path / name)
        with pytest.raises(ScanFileError, match=name):
            read_recording(tmp_path / name)


@pytest.mark.parametrize("room_bytes", [0, 10_000, 100_000, 1_000_000, 2_500_000, 3_200_000])
def test_a_full_disk_costs_nothing_that_was_flushed_and_nothing_that_waits(
    tmp_path: Path, room_bytes: int, full_disk: FullDisk
) -> None:
    written = predictions(100)
    writer = RecordingWriter(tmp_path / "a.h5", "s", 128)
    with full_disk(room_bytes):
        with pytest.raises(DiskRefused):
            for number, prediction in enumerate(written):
                writer.append(prediction)
                if number % 5 == 4:
                    writer.flush()
        for _ in range(2):
            with pytest.raises(DiskRefused):
                writer.close()
        taken = writer.num_frames
        check(part_path(writer.path), written[: writer.num_flushed])
    for prediction in written[taken:]:
        writer.append(prediction)
    check(writer.close(), written)


@pytest.mark.parametrize("room_bytes", [0, 10_000, 1_000_000, 2_500_000])
def test_a_recording_that_is_given_up_stays_as_it_was_flushed(
    tmp_path: Path, room_bytes: int, full_disk: FullDisk
) -> None:
    written = predictions(100)
    writer = RecordingWriter(tmp_path / "a.h5", "s", 128)
    with full_disk(room_bytes), pytest.raises(DiskRefused):
        for number, prediction in enumerate(written):
            writer.append(prediction)
            if number % 30 == 29:
                writer.flush()
    writer.abandon()
    check(part_path(writer.path), written[: writer.num_flushed])
    assert not writer.path.exists()


def test_positions_that_come_later_are_filled_in_until_the_end(tmp_path: Path) -> None:
    written = predictions(60)
    late: dict[int, LatePosition] = {row: Future() for row in (0, 7, 20, 21, 40, 59)}
    writer = RecordingWriter(tmp_path / "a.h5", "s", 128)
    for row, prediction in enumerate(written):
        writer.append(replace(prediction, position_m=late.get(row, prediction.position_m)))
    late[7].set_result(written[7].position_m)
    assert not writer.is_flushed
    writer.flush()
    assert writer.is_flushed
    place = dict.fromkeys(late, None) | {7: written[7].position_m}
    placed = [replace(one, position_m=place.get(row, one.position_m)) for row, one in enumerate(written)]
    check(part_path(writer.path), placed)
    for row in (0, 21, 59):
        late[row].set_result((1.0, float(row)))
        place[row] = (1.0, float(row))
    late[40].set_result(None)
    assert not writer.is_flushed
    path = writer.close()
    late[20].set_result((9.0, 9.0))
    check(path, [replace(one, position_m=place.get(row, one.position_m)) for row, one in enumerate(written)])


def test_rows_that_could_not_be_written_are_written_by_the_next_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written, extend = predictions(5, 8), RecordingWriter._extend
    writer = RecordingWriter(tmp_path / "a.h5", "s", 8)
    for prediction in written:
        writer.append(prediction)

    def fail(writer: RecordingWriter, path: str, *rest: Any) -> None:
        if path.endswith("model_version"):
            raise OSError("not now")
        extend(writer, path, *rest)

    with monkeypatch.context() as patched, pytest.raises(ScanFileError, match="not now"):
        patched.setattr(RecordingWriter, "_extend", fail)
        writer.flush()
    assert (writer.num_frames, writer.num_flushed) == (5, 0)
    check(writer.close(), written)


KILLED = """
import os, signal, sys
from tests.phasing.test_recording import *
writer = RecordingWriter(Path(sys.argv[1]), "s", 128)
for number, prediction in enumerate(predictions(100)):
    writer.append(prediction)
    if number in (20, 69):
        writer.write_map(stitched_map(number))
        writer.flush()
print(writer.num_flushed, flush=True)
sys.stdin.read() if sys.argv[2] == "wait" else os.kill(os.getpid(), signal.SIGKILL)
"""


def writing_process(path: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", KILLED, str(path), what]
    root = Path(__file__).parents[2]
    return subprocess.Popen(command, cwd=root, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_killed_writer_leaves_what_it_flushed(tmp_path: Path) -> None:
    with writing_process(tmp_path / "a.h5", "die") as process:
        output, _ = process.communicate(timeout=600)
    assert (process.returncode, output) == (-signal.SIGKILL, "70\n")
    check(tmp_path / "a.h5.part", predictions(100)[:70])
    stitched = read_recording(tmp_path / "a.h5.part").stitched
    assert stitched is not None
    np.testing.assert_array_equal(stitched.weight, stitched_map(69).weight)


def test_a_part_gets_its_name_only_when_its_writer_is_dead(tmp_path: Path, limited: Any) -> None:
    path = tmp_path / "20260101T000000.000000Z_a.h5"
    folder = RecordingFolder(tmp_path, 10**9)
    with limited(writing_process(path, "wait")) as process:
        assert process.stdout.readline() == "70\n"
        assert is_being_written(part_path(path))
        assert read_recording(part_path(path)).num_frames == 70
        assert folder.refresh() == [] and folder.used_bytes == 0
        process.kill()
    assert folder.refresh() == []
    check(path, predictions(100)[:70])
    assert folder.used_bytes == path.stat().st_size and not part_path(path).exists()


def test_what_cannot_be_opened_is_left_alone_and_named(tmp_path: Path) -> None:
    damaged = tmp_path / "20260101T000000.000000Z_a.h5.part"
    damaged.write_bytes(b"half a header")
    twice = tmp_path / "20260101T000000.000001Z_a.h5"
    write(twice, predictions(1))
    part_path(twice).write_bytes(twice.read_bytes())
    before = sorted(tmp_path.iterdir())
    one, other = RecordingFolder(tmp_path, 10**9).refresh()
    assert damaged.name in one and part_path(twice).name in other
    assert sorted(tmp_path.iterdir()) == before


def test_the_oldest_recordings_make_room_and_nothing_else_does(tmp_path: Path) -> None:
    ours = [write(tmp_path / f"2026010{day}T000000.000000Z_a.h5", predictions(20)) for day in (3, 1, 2)]
    third, first, second = ours
    theirs = [tmp_path / "20250101T000000.000000Z_a.h5", tmp_path / "mine.h5", tmp_path / "20250101.h5.part"]
    theirs[0].write_bytes(bytes(3_000_000))
    write(theirs[1], predictions(20))
    theirs[2].write_bytes(first.read_bytes())
    size = first.stat().st_size
    folder = RecordingFolder(tmp_path, 3 * size)
    assert folder.refresh() == [] and folder.used_bytes == 3 * size
    assert folder.make_room(0) == []
    assert folder.make_room(1) == [first]
    assert folder.make_room(2 * size) == [second]
    with pytest.raises(QuotaExceeded, match="quota"):
        folder.make_room(3 * size + 1)
    assert folder.used_bytes == size
    assert sorted(tmp_path.iterdir()) == sorted([third, *theirs])


def test_a_file_is_named_after_what_can_be_in_a_name(tmp_path: Path) -> None:
    folder = RecordingFolder(tmp_path / "new", 10**9)
    folder.refresh()
    for name in ("", "scan 7", "../../etc/passwd", "Проба\0\n", "x" * 300, ".", "a" * 39 + "é"):
        path = folder.new_path(name)
        write(path, predictions(1, 8))
        assert path.parent == folder.folder
    assert "_.._.._etc_passwd.h5" in "".join(one.name for one in folder.folder.iterdir())
    assert RecordingFolder(folder.folder, 1).make_room(0) == []
    again = RecordingFolder(folder.folder, 10**9)
    again.refresh()
    assert again.used_bytes == sum(one.stat().st_size for one in folder.folder.iterdir()) and again.used_bytes > 0


def test_an_error_of_the_folder_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ScanFileError, match="file"):
        RecordingWriter(tmp_path / "file" / "a.h5", "s", 8)
    with pytest.raises(ScanFileError, match=r"a\.h5"):
        RecordingWriter(tmp_path / "a.h5", "a\0b", 8)
    assert [one.name for one in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_is_full_at_once_is_left_clean(tmp_path: Path, full_disk: FullDisk) -> None:
    for room_bytes in (0, 1000, 10_000):
        with full_disk(room_bytes), pytest.raises(DiskRefused):
            RecordingWriter(tmp_path / "a.h5", "s", 8)
        assert list(tmp_path.iterdir()) == []
    check(write(tmp_path / "a.h5", predictions(2, 8)), predictions(2, 8))


def test_a_part_that_vanished_is_an_error(tmp_path: Path) -> None:
    writer = RecordingWriter(tmp_path / "a.h5", "s", 8)
    writer.append(replace(predictions(1, 8)[0], position_m=None))
    part_path(writer.path).unlink()
    with pytest.raises(ScanFileError, match=r"a\.h5"):
        writer.close()
    writer.abandon()
