import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from phasing import scanfile, scanlayout
from phasing.errors import DiskRefused, ScanFileError
from phasing.frames import Frame, prepare
from phasing.geometry import Geometry
from phasing.scanfile import Scan, ScanWriter, read_scan

FullDisk = Callable[[int], AbstractContextManager[None]]
SCAN_ID = "6f0e6f6c-95c8-4d4a-9b54-0d6f3d3a2a10"
GEOMETRY = Geometry(
    energy_ev=10_400.0, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(12, 16), crop_px=8, flip_rows=True
)


def frames(num: int = 50, dtype: str = "uint16") -> list[Frame]:
    counts = np.random.default_rng(0).integers(0, 1000, (num, 12, 16)).astype(dtype)
    return [
        Frame(1000 + index, 1.8e9 + index / 128, SCAN_ID, counts[index], (1e-6 * index, -2e-6 * index))
        for index in range(num)
    ]


def write(path: Path, scan: list[Frame], geometry: Geometry = GEOMETRY, **options: Any) -> Path:
    with ScanWriter(path, SCAN_ID, geometry, dtype=scan[0].counts.dtype, **options) as writer:
        for frame in scan:
            writer.append(frame)
    return path


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32", "float32"])
def test_what_is_written_is_read(tmp_path: Path, dtype: str) -> None:
    written = frames(700, dtype)
    probe = np.random.default_rng(0).random((8, 8)) * (1 + 2j)
    scan = read_scan(write(tmp_path / "a.h5", written, probe_guess=probe, nominal=("energy_ev",)))
    assert scan.scan_id == SCAN_ID and scan.num_frames == 700 and scan.nominal == ("energy_ev",)
    assert scan.geometry.differences(GEOMETRY) == ()
    assert scan.probe_guess is not None
    np.testing.assert_array_equal(scan.probe_guess, probe.astype(np.complex64))
    counts = scan.counts(690)
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts, [frame.counts for frame in written[690:]])
    for one, other in zip(scan.frames(690), written[690:], strict=True):
        assert _same(one, other)


def test_frames_are_prepared_a_block_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = read_scan(write(tmp_path / "a.h5", frames(50)))
    whole = prepare(scan.counts(), scan.geometry)
    asked: list[int] = []
    reading = Scan.counts

    def counted(self: Scan, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        block = reading(self, start, stop)
        asked.append(len(block))
        return block

    monkeypatch.setattr(Scan, "counts", counted)
    monkeypatch.setattr(scanfile, "_BLOCK_BYTES", 8 * 12 * 16 * 7)
    np.testing.assert_array_equal(scan.prepared(), whole)
    assert sum(asked) == 50 and max(asked) == 7


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _same(one: Frame, other: Frame) -> bool:
    facts = [(frame.unique_id, frame.time_s, frame.scan_id, frame.position_m) for frame in (one, other)]
    return facts[0] == facts[1] and bool((one.counts == other.counts).all())


def test_the_whole_geometry_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    geometry = replace(
        GEOMETRY,
        mask=rng.random((12, 16)) < 0.1,
        flat=rng.random((12, 16), np.float32),
        bin_px=2,
        crop_center_px=(6, 7),
    )
    scan = read_scan(write(tmp_path / "a.h5", frames(), geometry))
    assert scan.geometry.differences(geometry) == ()


def test_cxi_fields_are_in_si_units_and_positions_are_x_y_z(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5", frames())) as file:
        instrument = file["/entry_1/instrument_1"]
        assert instrument["source_1/energy"][()] == pytest.approx(10_400 * 1.602176634e-19)
        assert instrument["source_1/energy"].attrs["units"] == "J"
        assert instrument["detector_1/distance"].attrs["units"] == "m"
        assert instrument["detector_1/x_pixel_size"][()] == instrument["detector_1/y_pixel_size"][()] == 110e-6
        translation = file["/entry_1/data_1/translation"]
        assert translation.attrs["units"] == "m"
        np.testing.assert_allclose(translation[3], (-6e-6, 3e-6, 0))
        assert instrument["name"].asstr()[()]  # PyNX opens no file without


def test_area_detector_paths_are_the_same_data(tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "a.h5", frames())) as file:
        for path in ("/entry/data/data", "/entry/instrument/detector/data", "/entry_1/instrument_1/detector_1/data"):
            assert file[path] == file["/entry_1/data_1/data"]
        assert file["/entry/instrument/NDAttributes/NDArrayUniqueId"][0] == 1000
        # areaDetector counts from 1990.
        assert file["/entry/instrument/NDAttributes/NDArrayTimeStamp"][0] == 1.8e9 - 631_152_000


def test_the_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    writer = ScanWriter(path, SCAN_ID, GEOMETRY, dtype=np.uint16)
    for frame in frames(3):
        writer.append(frame)
    assert writer.num_frames == 3
    assert names(tmp_path) == ["a.h5.part"]
    with pytest.raises(ScanFileError, match="still being written"):
        read_scan(path)
    assert writer.close() == path
    assert names(tmp_path) == ["a.h5"]


def test_a_full_disk_loses_no_frame(tmp_path: Path, full_disk: FullDisk) -> None:
    written = frames(1500)
    path = tmp_path / "a.h5"
    writer = ScanWriter(path, SCAN_ID, GEOMETRY, dtype=np.uint16)
    with full_disk(300_000):  # of 576 000 bytes of frames
        with pytest.raises(DiskRefused, match=r"a\.h5: the disk does not take it: .*large"):
            for frame in written:
                writer.append(frame)
        taken = writer.num_frames
        assert 600 < taken < 1500
        with pytest.raises(DiskRefused):
            writer.append(written[taken])
        with pytest.raises(DiskRefused):
            writer.flush()
        assert writer.num_frames == taken
    for frame in written[taken:1450]:
        writer.append(frame)
    with full_disk(300_000):
        for frame in written[1450:]:
            writer.append(frame)
        with pytest.raises(DiskRefused):
            writer.close()
        assert names(tmp_path) == ["a.h5.part"]
    scan = read_scan(writer.close())
    np.testing.assert_array_equal(scan.counts(), [frame.counts for frame in written])
    np.testing.assert_array_equal(scan.unique_id, [frame.unique_id for frame in written])
    assert names(tmp_path) == ["a.h5"]


FULL = """
import resource, sys
from tests.phasing.test_scanfile import *
writer = ScanWriter(sys.argv[1], SCAN_ID, GEOMETRY, dtype=np.uint16)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    for frame in frames(1500):
        writer.append(frame)
    writer.close()
except DiskRefused:
    print("refused")
"""


@pytest.mark.parametrize("room", [0, 100_000, 300_000, 540_000])
def test_a_process_with_a_full_disk_ends_well(tmp_path: Path, room: int) -> None:
    """Left to itself, HDF5 ends it by a segmentation fault."""
    command = [sys.executable, "-c", FULL, str(tmp_path / "a.h5"), str(room)]
    ended = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "refused\n", "")


def test_a_file_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    writer = ScanWriter(path, SCAN_ID, GEOMETRY, dtype=np.uint16)
    writer.append(frames(1)[0])
    path.write_bytes(b"another's")
    with pytest.raises(ScanFileError, match="exists"):
        writer.close()
    assert path.read_bytes() == b"another's"
    assert read_scan(tmp_path / "a.h5.part").num_frames == writer.num_flushed == 1


def test_where_there_are_no_hard_links_a_scan_appears_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr("os.link", refuse)
    assert read_scan(write(tmp_path / "a.h5", frames(3))).num_frames == 3
    writer = ScanWriter(tmp_path / "b.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    writer.append(frames(1)[0])
    (tmp_path / "b.h5").write_bytes(b"another's")
    with pytest.raises(ScanFileError, match="exists"):
        writer.close()
    assert (tmp_path / "b.h5").read_bytes() == b"another's"


def test_the_number_flushed_is_what_a_part_holds(tmp_path: Path, full_disk: FullDisk) -> None:
    writer = ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    for frame in frames(700)[:690]:
        writer.append(frame)
    assert writer.num_flushed == 0
    writer.flush()
    assert writer.num_flushed == 690
    with full_disk(0):
        writer.append(frames(700)[690])
        with pytest.raises(DiskRefused):
            writer.flush()
    assert (writer.num_flushed, writer.num_frames) == (690, 691)


def test_any_damage_is_a_clear_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.h5", frames(60)).read_bytes()
    damaged = tmp_path / "damaged.h5"
    refused = 0
    for seed in range(150):
        chance = random.Random(seed)
        content = bytearray(whole)
        for _ in range(chance.choice((1, 2, 8))):
            content[chance.randrange(12_000)] = chance.randrange(256)
        damaged.write_bytes(content)
        try:
            read_scan(damaged).counts(0, 1)
        except ScanFileError as error:
            assert "damaged.h5" in str(error)
            refused += 1
    assert 30 < refused < 150


def test_a_part_that_a_writer_left_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "a.h5.part").write_bytes(b"a scan")
    with pytest.raises(ScanFileError, match=r"a\.h5\.part: exists already"):
        ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    assert (tmp_path / "a.h5.part").read_bytes() == b"a scan"


def test_flushing_between_chunks_costs_no_frame(tmp_path: Path) -> None:
    written = frames(1500)
    writer = ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    for index, frame in enumerate(written):
        writer.append(frame)
        if index % 97 == 0:
            writer.flush()
            assert read_scan(tmp_path / "a.h5.part").num_frames == index + 1
    np.testing.assert_array_equal(read_scan(writer.close()).counts(), [frame.counts for frame in written])


KILLED = """
import os, sys
from tests.phasing.test_scanfile import *
writer = ScanWriter(sys.argv[1], SCAN_ID, GEOMETRY, dtype=np.uint16)
for frame in frames(5):
    writer.append(frame)
writer.flush()
os.kill(os.getpid(), 9)
"""


def test_what_was_flushed_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    status = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert status.returncode == -9
    assert read_scan(path.with_name("a.h5.part")).num_frames == 5


def test_abort_and_an_exception_leave_nothing(tmp_path: Path) -> None:
    ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16).abort()
    with pytest.raises(ZeroDivisionError), ScanWriter(tmp_path / "b.h5", SCAN_ID, GEOMETRY, dtype=np.uint16) as writer:
        writer.append(frames(1)[0])
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_scan_without_frames_is_not_written(tmp_path: Path) -> None:
    writer = ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    with pytest.raises(ScanFileError, match="no frames"):
        writer.close()
    assert names(tmp_path) == []


def test_the_writer_copies_what_it_is_given(tmp_path: Path) -> None:
    frame = frames(1)[0]
    before = frame.counts.copy()
    writer = ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    writer.append(frame)
    frame.counts[:] = 0
    np.testing.assert_array_equal(read_scan(writer.close()).counts()[0], before)


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path) -> None:
    frame = frames(1)[0]
    writer = ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    for wrong, reason in (
        (replace(frame, scan_id="other"), "does not belong"),
        (replace(frame, counts=np.zeros((3, 3), np.uint16)), r"\(3, 3\)"),
        (replace(frame, counts=frame.counts.astype(np.float32)), "float32"),
    ):
        with pytest.raises(ScanFileError, match=reason):
            writer.append(wrong)
    writer.append(frame)
    with pytest.raises(ScanFileError, match="1000 comes more than once"):
        writer.append(frame)
    assert writer.num_frames == 1
    writer.abort()
    with pytest.raises(ScanFileError, match="cannot be written"):
        ScanWriter(tmp_path / "a.h5", "a\0b", GEOMETRY, dtype=np.uint16)
    assert names(tmp_path) == []
    with pytest.raises(ScanFileError, match="probe"):
        ScanWriter(tmp_path / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16, probe_guess=np.zeros((5, 5)))
    with pytest.raises(ScanFileError, match="cannot be written"):
        ScanWriter(tmp_path / "nowhere" / "a.h5", SCAN_ID, GEOMETRY, dtype=np.uint16)
    with pytest.raises(ScanFileError, match="exists already"):
        ScanWriter(write(tmp_path / "a.h5", [frame]), SCAN_ID, GEOMETRY, dtype=np.uint16)


def _replace(file: h5py.File, path: str, value: Any) -> None:
    file.pop(path, None)
    file[path] = value


DAMAGE: dict[str, tuple[Callable[[h5py.File], None], str]] = {
    "no frames": (lambda file: file.pop("/entry_1/data_1/data"), "plain areaDetector"),
    "no positions": (lambda file: file.pop(scanlayout.TRANSLATION), "no positions"),
    "fewer positions": (lambda file: file[scanlayout.TRANSLATION].resize(49, 0), "50 frames but 49 positions"),
    "fewer ids": (lambda file: file[scanlayout.UNIQUE_ID].resize(48, 0), "50 frames but 48 frame ids"),
    "more times": (lambda file: file[scanlayout.TIME_STAMP].resize(51, 0), "50 frames but 51 time stamps"),
    "flat positions": (lambda file: _replace(file, scanlayout.TRANSLATION, np.zeros(150)), r"\(150,\)"),
    "flat frames": (lambda file: _replace(file, scanlayout.DATA, np.zeros((50, 12), "u2")), r"\(50, 12\)"),
    "frames of another size": (lambda file: file[scanlayout.DATA].resize(7, 1), "crop_px"),
    "empty": (lambda file: file[scanlayout.DATA].resize(0, 0), "no frames"),
    "a NaN position": (lambda file: file[scanlayout.TRANSLATION].__setitem__((7, 0), np.nan), "1 of 50 .* frame 7"),
    "all NaN positions": (lambda file: file[scanlayout.TRANSLATION].__setitem__(slice(None), np.nan), "all are NaN"),
    "a NaN time": (lambda file: file[scanlayout.TIME_STAMP].__setitem__(7, np.nan), "time stamp"),
    "an id twice": (lambda file: file[scanlayout.UNIQUE_ID].__setitem__(7, 1000), "1000 comes more than once"),
    "half an id": (lambda file: _replace(file, scanlayout.UNIQUE_ID, np.arange(50) / 2), "not a whole number"),
    "no number as id": (lambda file: _replace(file, scanlayout.UNIQUE_ID, np.full(50, np.nan)), "not a whole number"),
    "a text for a probe": (lambda file: _replace(file, scanlayout.PROBE, ["none"]), "probe must be complex"),
    "no distance": (lambda file: file.pop(scanlayout.DISTANCE), "distance is missing"),
    "a text for a distance": (lambda file: _replace(file, scanlayout.DISTANCE, "1.5 m"), "not a number"),
    "no energy to speak of": (lambda file: file[scanlayout.ENERGY].__setitem__((), 0), "energy_ev"),
    "oblong pixels": (lambda file: file[scanlayout.Y_PIXEL_SIZE].__setitem__((), 1e-6), "not square"),
    "no preparation": (lambda file: file.pop(scanlayout.PREPARATION), "preparation is missing"),
    "broken preparation": (lambda file: _replace(file, scanlayout.PREPARATION, "{"), "preparation"),
    "a list as preparation": (lambda file: _replace(file, scanlayout.PREPARATION, "[1]"), "preparation"),
    "no scan id": (lambda file: file.pop(scanlayout.SCAN_ID), "entry_identifier is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a.h5", frames())
    spoil, reason = DAMAGE[damage]
    with h5py.File(path, "r+") as file:
        # Resizable beyond what was written, so that counts can be made to differ either way.
        spoil(file)
    with pytest.raises(ScanFileError, match=reason) as caught:
        read_scan(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_frame_without_position_is_refused_when_read(tmp_path: Path) -> None:
    scan = frames()
    scan[11] = replace(scan[11], position_m=None)
    with pytest.raises(ScanFileError, match="frame 11"):
        read_scan(write(tmp_path / "a.h5", scan))


def test_a_frame_of_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    scan = frames(dtype="float32")
    scan[4].counts[0] = np.nan
    assert read_scan(write(tmp_path / "some.h5", scan)).num_frames == 50
    scan[4].counts[:] = np.nan
    with pytest.raises(ScanFileError, match="frame 4"):
        read_scan(write(tmp_path / "all.h5", scan))


def test_what_is_no_scan_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match="no such scan file"):
        read_scan(tmp_path / "missing.h5")
    whole = write(tmp_path / "a.h5", frames()).read_bytes()
    for name, content in (("text.h5", b"no HDF5"), ("empty.h5", b""), ("cut.h5", whole[: len(whole) // 2])):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ScanFileError, match=rf"{name}: not an HDF5 file, truncated or damaged"):
            read_scan(tmp_path / name)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["results"] = 1
    with pytest.raises(ScanFileError, match="data is missing"):
        read_scan(tmp_path / "other.h5")


def test_frames_that_vanish_after_opening_are_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", frames())
    scan = read_scan(path)
    path.unlink()
    with pytest.raises(ScanFileError, match="no longer"):
        scan.counts()


def test_frames_that_a_detector_compressed_are_read_by_a_process_that_knows_nothing_of_it(tmp_path: Path) -> None:
    import hdf5plugin

    scan = frames()
    path = write(tmp_path / "a.h5", scan)
    with h5py.File(path, "r+") as file:
        counts = file[scanlayout.DATA][:]
        del file[scanlayout.DATA]
        file.create_dataset(scanlayout.DATA, data=counts, chunks=(1, *counts.shape[1:]), **hdf5plugin.Bitshuffle())
    code = "import sys; from phasing.scanfile import read_scan; print(read_scan(sys.argv[1]).counts().sum())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=300, check=True
    )
    assert int(done.stdout) == int(counts.sum())
