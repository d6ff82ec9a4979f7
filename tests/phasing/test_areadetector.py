"""Plain areaDetector files: frames, ids and attributes from the file, everything else from elsewhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from benchmarks.plain_files import ATTRIBUTES, DATA, EPICS_EPOCH_S, write_mda, write_plain
from phasing.errors import ScanFileError
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanfile import ScanWriter, incomplete, read_scan
from phasing.supplement import Axes, Readings, Supplement

GEOMETRY = Geometry(
    energy_ev=10_400.0, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(12, 16), crop_px=8, flip_rows=True
)
SUPPLEMENT = Supplement(GEOMETRY)
N = 20
IDS = 5000 + np.arange(N)
COUNTS = np.random.default_rng(0).integers(0, 1000, (N, 12, 16)).astype(np.uint16)
X_UM, Y_UM = 0.5 * np.arange(N), -0.25 * np.arange(N)
POSITION_M = 1e-6 * np.stack([Y_UM, X_UM], axis=1)


def write(path: Path, rows: Any = slice(None), **attributes: Any) -> Path:
    both = {"PositionX": X_UM[rows], "PositionY": Y_UM[rows]} | attributes
    return write_plain(path, COUNTS[rows], IDS[rows], **both)


def write_csv(path: Path, rows: Any = slice(None)) -> Path:
    lines = [f"{i},{x},{y}" for i, x, y in zip(IDS[rows], X_UM[rows], Y_UM[rows], strict=True)]
    path.write_text("\n".join(["id,PositionX,PositionY", *lines]))
    return path


def test_frames_ids_times_and_positions_come_from_the_attributes(tmp_path: Path) -> None:
    scan = read_scan(write(tmp_path / "a.h5"), SUPPLEMENT)
    np.testing.assert_array_equal(scan.unique_id, IDS)
    np.testing.assert_allclose(scan.position_m, POSITION_M)
    np.testing.assert_allclose(scan.time_s, 1e9 + EPICS_EPOCH_S + 0.01 * np.arange(N))
    np.testing.assert_array_equal(scan.counts(), COUNTS)
    assert scan.geometry.differences(GEOMETRY) == () and scan.siblings == ()
    frame = list(scan.frames(7, 9))[1]
    assert (frame.unique_id, frame.position_m) == (5008, pytest.approx((-2e-6, 4e-6)))


def test_without_a_supplement_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match=r"a.h5: a plain areaDetector file, without the positions and geometry"):
        read_scan(write(tmp_path / "a.h5"))


def test_axes_are_swapped_signed_and_scaled(tmp_path: Path) -> None:
    axes = Axes(x="/entry/samx", y="samy", unit_m=1e-3, sign_x=-1, swap=True)
    path = write_plain(tmp_path / "a.h5", COUNTS, IDS, samy=Y_UM[:, None])
    with h5py.File(path, "a") as file:
        file["/entry/samx"] = X_UM
    scan = read_scan(path, replace(SUPPLEMENT, axes=axes))
    np.testing.assert_allclose(scan.position_m, 1e-3 * np.stack([X_UM, -Y_UM], axis=1))


def test_the_scan_id_is_the_files_or_the_frames_or_follows_from_ids_and_positions(tmp_path: Path) -> None:
    text = h5py.string_dtype()
    named = write(tmp_path / "a.h5", ScanId=np.array(["mine"] * N, text))
    assert read_scan(named, SUPPLEMENT).scan_id == "mine"
    with h5py.File(named, "a") as file:
        file["/entry/entry_identifier"] = "ours"
    assert read_scan(named, SUPPLEMENT).scan_id == "ours"
    mixed = write(tmp_path / "b.h5", ScanId=np.array(["one"] * 10 + ["two"] * 10, text))
    made = read_scan(mixed, SUPPLEMENT).scan_id
    assert len(made) == 36 and made == read_scan(write(tmp_path / "c.h5"), SUPPLEMENT).scan_id
    assert made != read_scan(write(tmp_path / "d.h5", PositionX=X_UM + 1), SUPPLEMENT).scan_id


@pytest.mark.parametrize(("share", "expected_ev"), [(1e-4, 10_400.0), (5e-3, 10_452.0)])
def test_an_energy_that_was_read_counts_where_it_differs(tmp_path: Path, share: float, expected_ev: float) -> None:
    path = write(tmp_path / "a.h5", mono_keV=np.full(N, 10.4 * (1 + share)))
    readings = Readings(energy="mono_keV", energy_unit_ev=1000.0)
    scan = read_scan(path, replace(SUPPLEMENT, readings=readings))
    assert scan.geometry.energy_ev == pytest.approx(expected_ev)
    assert scan.geometry.distance_m == 1.55


def test_an_energy_that_cannot_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match=r"attributes Energy and DetectorDistance: .*energy_ev"):
        read_scan(write(tmp_path / "a.h5", Energy=np.zeros(N)), SUPPLEMENT)


def csv_positions(folder: Path) -> Path:
    return write_csv(folder / "p.csv", np.random.default_rng(1).permutation(N))


def hdf5_positions(folder: Path) -> Path:
    with h5py.File(folder / "p.h5", "w") as file:
        file["id"], file["PositionX"], file["PositionY"] = IDS[::-1], X_UM[::-1], Y_UM[::-1]
    return folder / "p.h5"


def mda_positions(folder: Path) -> Path:
    motors = {"PositionX": X_UM.tolist(), "PositionY": Y_UM.tolist()}
    return write_mda(folder / "p.mda", motors, {"det:image1:UniqueId_RBV": IDS.tolist()})


def counted_positions(folder: Path) -> Path:
    return write_mda(folder / "p.mda", {"PositionX": X_UM.tolist(), "PositionY": Y_UM.tolist()}, {}, requested=50)


@pytest.mark.parametrize("make", [csv_positions, hdf5_positions, mda_positions, counted_positions])
def test_positions_of_a_file_are_joined_by_id(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    path = write(tmp_path / "a.h5", PositionX=None, PositionY=None)
    supplement = replace(SUPPLEMENT, position_file=make(tmp_path))
    np.testing.assert_allclose(read_scan(path, supplement).position_m, POSITION_M)


def test_a_position_file_goes_before_what_a_scan_file_says(tmp_path: Path) -> None:
    with ScanWriter(tmp_path / "ours.h5", "id", GEOMETRY, dtype="u2") as writer:
        for index in range(N):
            writer.append(Frame(int(IDS[index]), 1.8e9, "id", COUNTS[index], None))
    with pytest.raises(ScanFileError, match=r"no positions"):
        read_scan(tmp_path / "ours.h5", SUPPLEMENT)
    supplement = replace(SUPPLEMENT, position_file=write_csv(tmp_path / "p.csv"))
    scan = read_scan(tmp_path / "ours.h5", supplement)
    np.testing.assert_allclose(scan.position_m, POSITION_M)
    assert scan.scan_id == "id"


def test_unequal_numbers_are_refused_naming_both_unless_so_many_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", PositionX=None, PositionY=None)
    rows = np.delete(np.arange(N), [3, 4, 11])
    fewer = replace(SUPPLEMENT, position_file=write_csv(tmp_path / "p.csv", rows))
    text = r"20 frames but 17 positions: 3 frames have none, the first is 5003; at most 2 may be missing"
    with pytest.raises(ScanFileError, match=text):
        read_scan(path, replace(fewer, max_missing=2))
    scan = read_scan(path, replace(fewer, max_missing=3))
    np.testing.assert_array_equal(scan.unique_id, IDS[rows])
    np.testing.assert_allclose(scan.position_m, POSITION_M[rows])
    np.testing.assert_array_equal(scan.counts(), COUNTS[rows])
    np.testing.assert_array_equal(scan.counts(2, 4), COUNTS[rows][2:4])
    assert [frame.unique_id for frame in scan.frames(2, 4)] == [5002, 5005]
    assert len(scan.prepared()) == 17

    short = write(tmp_path / "b.h5", rows, PositionX=None, PositionY=None)
    more = replace(SUPPLEMENT, position_file=write_csv(tmp_path / "p.csv"))
    text = r"17 frames but 20 positions: 3 belong to no frame, the first to id 5003; at most 0"
    with pytest.raises(ScanFileError, match=text):
        read_scan(short, more)
    assert read_scan(short, replace(more, max_missing=3)).num_frames == 17


def test_positions_of_another_scan_are_refused_however_many_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5")
    (tmp_path / "p.csv").write_text("id,PositionX,PositionY\n1,0,0\n2,0,0\n")
    with pytest.raises(ScanFileError, match=r"20 frames have none"):
        read_scan(path, replace(SUPPLEMENT, position_file=tmp_path / "p.csv", max_missing=1000))


def test_counted_positions_fit_only_frames_without_a_gap(tmp_path: Path) -> None:
    rows = np.delete(np.arange(N), 5)
    path = write(tmp_path / "a.h5", rows, PositionX=None, PositionY=None)
    motors = {"PositionX": X_UM[rows].tolist(), "PositionY": Y_UM[rows].tolist()}
    supplement = replace(SUPPLEMENT, position_file=write_mda(tmp_path / "p.mda", motors, {}), max_missing=5)
    with pytest.raises(ScanFileError, match=r"19 frames but 19 positions, which have no frame ids"):
        read_scan(path, supplement)


def test_frames_whose_attributes_are_no_position_are_left_out_where_so_many_may_be(tmp_path: Path) -> None:
    x_um = X_UM.copy()
    x_um[7] = np.nan
    path = write(tmp_path / "a.h5", PositionX=x_um)
    with pytest.raises(ScanFileError, match=r"20 frames but 19 positions: 1 frames have none, the first is 5007"):
        read_scan(path, SUPPLEMENT)
    assert 5007 not in read_scan(path, replace(SUPPLEMENT, max_missing=1)).unique_id


def eiger(folder: Path) -> tuple[Path, Supplement]:
    """A master with a link for each file of frames, as detectors write that do it themselves."""
    for number, rows in enumerate((slice(0, 8), slice(8, 16), slice(16, N)), 1):
        write_plain(folder / f"s_data_{number:06}.h5", COUNTS[rows], IDS[rows], data="/entry/data/data")
    with h5py.File(folder / "s_master.h5", "w") as file:
        for number in (1, 2, 3):
            link = h5py.ExternalLink(f"s_data_{number:06}.h5", DATA)
            file[f"/entry/data/data_{number:06}"] = link
        columns = {"NDArrayUniqueId": IDS, "NDArrayTimeStamp": np.zeros(N), "PositionX": X_UM, "PositionY": Y_UM}
        for name, values in columns.items():
            file[f"{ATTRIBUTES}/{name}"] = values
    return folder / "s_master.h5", SUPPLEMENT


def virtual(folder: Path) -> tuple[Path, Supplement]:
    path = write(folder / "s.h5")
    layout = h5py.VirtualLayout(COUNTS.shape, COUNTS.dtype)
    for number, rows in enumerate((slice(0, 8), slice(8, N)), 1):
        write_plain(folder / f"part{number}.h5", COUNTS[rows], IDS[rows])
        layout[rows] = h5py.VirtualSource(f"part{number}.h5", DATA, COUNTS[rows].shape)
    with h5py.File(path, "a") as file:
        del file[DATA]
        file.create_virtual_dataset(DATA, layout)
    return path, SUPPLEMENT


def numbered(folder: Path) -> tuple[Path, Supplement]:
    for name, rows in (("s.h5", slice(0, 8)), ("s_1.h5", slice(8, 16)), ("s_2.h5", slice(16, N))):
        write(folder / name, rows)
    return folder / "s.h5", replace(SUPPLEMENT, numbered="{stem}_*.h5")


@pytest.mark.parametrize("make", [eiger, virtual, numbered])
def test_frames_in_several_files_are_read_as_one(
    tmp_path: Path, make: Callable[[Path], tuple[Path, Supplement]]
) -> None:
    path, supplement = make(tmp_path)
    assert incomplete(path, supplement) == ""
    scan = read_scan(path, supplement)
    np.testing.assert_array_equal(scan.counts(), COUNTS)
    np.testing.assert_array_equal(scan.counts(6, 18), COUNTS[6:18])
    np.testing.assert_array_equal(scan.unique_id, IDS)
    assert scan.counts(3, 3).shape == (0, 12, 16)
    one = scan.siblings[0]
    assert {path.parent / name for name in (p.name for p in path.parent.iterdir())} == {path, *scan.siblings}
    content = one.read_bytes()
    one.unlink()
    with pytest.raises(ScanFileError, match=one.name):
        read_scan(path, supplement)
    assert one.name in incomplete(path, supplement)
    one.write_bytes(content[: len(content) // 2])
    with pytest.raises(ScanFileError, match=one.name):
        read_scan(path, supplement)


def other_shape(file: h5py.File) -> None:
    del file[DATA]
    file[DATA] = np.ones((N, 12, 12), np.uint16)


def drop(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def put(name: str, values: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file[name] = values

    return change


DAMAGE = {
    "shape": (other_shape, r"frames are \(12, 12\) pixels, but the configured geometry is for \(12, 16\)"),
    "no ids": (drop(f"{ATTRIBUTES}/NDArrayUniqueId"), "NDArrayUniqueId is missing"),
    "fewer ids": (put(f"{ATTRIBUTES}/NDArrayUniqueId", IDS[:-1]), "20 frames but 19 values of .*NDArrayUniqueId"),
    "an id twice": (put(f"{ATTRIBUTES}/NDArrayUniqueId", IDS // 2), "comes more than once"),
    "half an id": (put(f"{ATTRIBUTES}/NDArrayUniqueId", IDS + 0.5), "not a whole number"),
    "no position": (drop(f"{ATTRIBUTES}/PositionX"), "no attribute PositionX.*and no position file is given"),
    "texts": (put(f"{ATTRIBUTES}/PositionX", ["a"] * N), "must be .N,. numbers"),
    "no frames": (put(DATA, np.ones((0, 12, 16), np.uint16)), "holds no frames"),
    "flat frames": (put(DATA, np.ones((N, 12), np.uint16)), "frames must be"),
    "a time": (put(f"{ATTRIBUTES}/NDArrayTimeStamp", np.full(N, np.nan)), "a time stamp is NaN"),
    "empty frame": (put(DATA, np.full((N, 12, 16), np.nan, np.float32)), "frame 0 holds nothing but NaN"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_cannot_be_used_is_named(tmp_path: Path, damage: str) -> None:
    change, text = DAMAGE[damage]
    with h5py.File(write(tmp_path / "a.h5"), "a") as file:
        change(file)
    with pytest.raises(ScanFileError, match=rf"a.h5: .*{text}"):
        read_scan(tmp_path / "a.h5", SUPPLEMENT)


def test_frames_of_different_type_in_numbered_files_are_refused(tmp_path: Path) -> None:
    path, supplement = numbered(tmp_path)
    with h5py.File(tmp_path / "s_2.h5", "a") as file:
        put(DATA, COUNTS[16:].astype(np.uint32))(file)
    with pytest.raises(ScanFileError, match=r"its frames differ: .* uint16, .* uint32"):
        read_scan(path, supplement)


def test_it_waits_for_its_position_file(tmp_path: Path) -> None:
    supplement = replace(SUPPLEMENT, position_file=tmp_path / "p.csv")
    path = write(tmp_path / "a.h5")
    assert incomplete(path, supplement) == "p.csv with its positions"
    write_csv(tmp_path / "p.csv")
    assert incomplete(path, supplement) == ""
    with pytest.raises(ScanFileError, match=r"a.h5: positions: .*p.csv: No such file"):
        (tmp_path / "p.csv").unlink()
        read_scan(path, supplement)


def test_a_supplement_survives_json(tmp_path: Path) -> None:
    whole = Supplement(
        replace(GEOMETRY, mask=np.eye(12, 16, dtype=bool)),
        data="/d",
        attributes="/a",
        numbered="{stem}_*",
        axes=Axes(x="a", sign_y=-1, rotation_deg=3.0),
        readings=Readings(energy="E", tolerance=0.5),
        position_file=tmp_path / "p.csv",
        max_missing=7,
    )
    back = Supplement.from_json(json.loads(json.dumps(whole.to_json())))
    assert back.geometry.differences(whole.geometry) == ()
    assert replace(back, geometry=GEOMETRY).to_json() == replace(whole, geometry=GEOMETRY).to_json()
    with pytest.raises(ScanFileError, match=r"supplements"):
        Supplement.from_json({**whole.to_json(), "axes": {"nonsense": 1}})
