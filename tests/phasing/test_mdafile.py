"""Position files of synApps' sscan record."""

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from benchmarks.plain_files import write_mda, write_mda_2d
from phasing.errors import ScanFileError
from phasing.mdafile import MdaFile
from phasing.positionfile import PositionFile, PositionFileError

X, Y, ID = "26idcnpi:m17.RBV", "26idcnpi:m18.RBV", "26idc:image1:UniqueId_RBV"


def test_columns_are_found_by_motor_readback_and_description(tmp_path: Path) -> None:
    file = MdaFile(write_mda(tmp_path / "a.mda", {X: [1.5, 2.5]}, {"a counter": [7.0, 8.0]}, requested=9))
    assert file.names == ("26idcnpi:m17.VAL", "a counter")
    for name in (X, "26idcnpi:m17.VAL", "a motor"):
        np.testing.assert_array_equal(file.column(name), [1.5, 2.5])
    np.testing.assert_array_equal(file.column("a counter"), [7.0, 8.0])
    assert file.column("m17") is None


def test_outer_positions_hold_for_all_points_inside_and_the_unfinished_line_is_left_out(tmp_path: Path) -> None:
    lines = [({X: [0.0, 1.0, 2.0]}, {ID: [4, 5, 6]}), ({X: [0.1, 1.1]}, {ID: [7, 8]}), ({X: [9.0]}, {ID: [9]})]
    path = write_mda_2d(tmp_path / "a.mda", {Y: [10.0, 20.0]}, lines, requested=5)
    table = PositionFile(path, x=X, y=Y).read()
    assert table is not None and not table.counted
    np.testing.assert_array_equal(table.unique_id, [4, 5, 6, 7, 8])
    np.testing.assert_array_equal(table.yx, [[10, 0], [10, 1], [10, 2], [20, 0.1], [20, 1.1]])


def test_points_without_ids_are_counted(tmp_path: Path) -> None:
    table = PositionFile(write_mda(tmp_path / "a.mda", {X: [1, 2, 3], Y: [4, 5, 6]}, {}), x=X, y=Y).read()
    assert table is not None and table.counted
    np.testing.assert_array_equal(table.unique_id, [0, 1, 2])


def test_the_column_of_ids_may_be_named(tmp_path: Path) -> None:
    path = write_mda(tmp_path / "a.mda", {X: [1, 2], Y: [4, 5]}, {"my:counter": [12, 11], ID: [1, 2]})
    table = PositionFile(path, x=X, y=Y, unique_id="my:counter").read()
    assert table is not None
    np.testing.assert_array_equal(table.unique_id, [11, 12])
    np.testing.assert_array_equal(table.yx, [[5, 2], [4, 1]])
    with pytest.raises(PositionFileError, match=rf"a.mda: no column other among 26idcnpi:m17.VAL, .*{ID}"):
        PositionFile(path, x=X, y=Y, unique_id="other").read()


def test_ids_beyond_single_precision_are_refused(tmp_path: Path) -> None:
    path = write_mda(tmp_path / "a.mda", {X: [1], Y: [4]}, {ID: [2**25]})
    with pytest.raises(PositionFileError, match=r"one above"):
        PositionFile(path, x=X, y=Y).read()


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write_mda(tmp_path / "a.mda", {X: [1], Y: [4]}, {})
    with pytest.raises(PositionFileError, match=r"column a motor comes more than once"):
        PositionFile(path, x="a motor", y=Y).read()


@pytest.mark.parametrize("share", np.linspace(0.02, 0.99, 40))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    lines = [({X: [0.0, 1.0, 2.0]}, {ID: [4, 5, 6]})] * 2
    content = write_mda_2d(tmp_path / "a.mda", {Y: [10.0, 20.0]}, lines).read_bytes()
    (tmp_path / "b.mda").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ScanFileError, match=r"truncated or damaged|it tells of|not an MDA"):
        MdaFile(tmp_path / "b.mda")


def test_random_bytes_are_refused_and_nothing_else_happens(tmp_path: Path) -> None:
    content = write_mda(tmp_path / "a.mda", {X: [1.0, 2.0], Y: [4.0, 5.0]}, {ID: [1, 2]}).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for at in rng.integers(4, len(content), 3):
            damaged[at] = rng.integers(256)
        (tmp_path / "b.mda").write_bytes(damaged)
        with suppress(ScanFileError):
            MdaFile(tmp_path / "b.mda")
