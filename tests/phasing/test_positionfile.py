"""Position files: joined by id, averaged, read as they grow, refused with the line and column that is wrong."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from phasing.positionfile import PositionFile, PositionFileError
from phasing.scanlayout import TRANSLATION, UNIQUE_ID

GROWING = {"may_grow": True, "at_rest": False}


def opened(path, text=None, x="x", y="y"):
    if text is not None:
        path.write_text(text)
    return PositionFile(path, x=x, y=y)


def as_dict(table):
    return {i: tuple(yx) for i, yx in zip(table.unique_id.tolist(), table.yx.tolist(), strict=True)}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "positions"


@pytest.mark.parametrize("name", ["id", "unique_id", "NDArrayUniqueId"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_columns_are_found_by_name(path, name, delimiter, end):
    lines = [["y", name, "other", "x"], ["1.5", "7", "?", "-2"], ["2.5", "5.0", "", "3e-1"]]
    path.write_bytes(end.join(delimiter.join(line) for line in lines).encode())
    assert as_dict(opened(path).read()) == {5: (2.5, 0.3), 7: (1.5, -2.0)}


def test_a_commented_header_a_byte_order_mark_and_empty_lines_are_fine(path):
    path.write_bytes("\ufeff# id, x, y\n\n1, 2, 3\n# a comment\n2, 4, 5\n".encode())
    assert as_dict(opened(path).read()) == {1: (3.0, 2.0), 2: (5.0, 4.0)}


def test_rows_of_one_id_are_averaged_in_any_order(path):
    table = opened(path, "id,x,y\n2,1,10\n1,5,5\n2,3,20\n2,5,60\n").read()
    assert as_dict(table) == {1: (5.0, 5.0), 2: (30.0, 3.0)}


def test_a_frame_is_found_by_its_id(path):
    table = opened(path, "id,x,y\n9,1,2\n4,3,4\n").read()
    assert [table.find(i) for i in (4, 9, 0, 5, 10)] == [(4.0, 3.0), (2.0, 1.0), None, None, None]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        ("id,x\n1,2\n", "line 1: no column y among id, x"),
        ("x,y\n1,2\n", "line 1: no column NDArrayUniqueId or unique_id or id"),
        ("id,unique_id,x,y\n", "columns unique_id and id both hold ids"),
        ("id,x,y,x\n1,2,3,4\n", "line 1: column x comes more than once"),
        ("id,x,y\n1,2,3\n2,3\n", "line 3: 2 columns, the header has 3"),
        ("id,x,y\n1,2,3\n\n2,here,3\n", "line 4, column x: 'here' is no number"),
        ("id,x,y\n1,2,nan\n", "line 2, column y: 'nan' is not finite"),
        ("id,x,y\n1,inf,2\n", "line 2, column x: 'inf' is not finite"),
        ("id,x,y\n1.5,1,2\n", "line 2, column id: '1.5' is no frame id"),
        ("id,x,y\n1e300,1,2\n", "line 2, column id: '1e300' is no frame id"),
    ],
)
def test_what_is_wrong_is_named(path, text, reason):
    with pytest.raises(PositionFileError) as refused:
        opened(path, text).read()
    assert reason in str(refused.value) and str(path) in str(refused.value)


def test_bytes_are_refused(path):
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(PositionFileError, match="neither HDF5 nor text"):
        opened(path).read()


def test_a_file_that_is_not_there_is_named(path):
    with pytest.raises(PositionFileError, match=f"{path}: No such file"):
        opened(path).read()


def test_a_line_that_is_being_written_is_left_for_later(path):
    file = opened(path, "id,x,y\n1,1,1\n2,2,2\n3,3,3.")
    assert as_dict(file.read(**GROWING)) == {1: (1.0, 1.0)}  # of 2, more rows may come
    assert as_dict(file.read(may_grow=True)) == {1: (1.0, 1.0), 2: (2.0, 2.0)}
    with path.open("a") as more:
        more.write("75\n")
    assert as_dict(file.read(**GROWING)) == {1: (1.0, 1.0), 2: (2.0, 2.0)}
    assert as_dict(file.read())[3] == (3.75, 3.0)


def test_a_line_taken_for_finished_may_go_on_all_the_same(path):
    file = opened(path, "id,x,y\n1,1,1")
    assert as_dict(file.read()) == {1: (1.0, 1.0)}
    with path.open("a") as more:
        more.write("5\n2,2,2\n")
    assert as_dict(file.read()) == {1: (15.0, 1.0), 2: (2.0, 2.0)}


def test_what_is_appended_counts_its_lines_on(path):
    file = opened(path, "id,x,y\n1,1,1\n")
    file.read()
    with path.open("a") as more:
        more.write("2,2,2\n3,no,3\n")
    with pytest.raises(PositionFileError, match="line 4, column x"):
        file.read()
    path.write_text("id,x,y\n1,1,1\n2,2,2\n3,3,3\n")
    assert as_dict(file.read())[3] == (3.0, 3.0)


def test_a_file_replaced_by_another_is_read_anew(path):
    file = opened(path, "id,x,y\n1,1,1\n2,2,2\n")
    file.read()
    path.write_text("id,x,y\n1,9,9\n7,7,7\n8,8,8\n")
    assert as_dict(file.read()) == {1: (9.0, 9.0), 7: (7.0, 7.0), 8: (8.0, 8.0)}
    path.write_text("id,x,y\n1,1,1\n")
    assert as_dict(file.read()) == {1: (1.0, 1.0)}


def test_growing_line_by_line_ends_as_the_whole_file_does(path):
    lines = ["id,x,y", *(f"{i // 3},{i * 0.5},{-i}" for i in range(30))]
    text = "\n".join(lines)
    file = opened(path, "")
    for end in range(0, len(text), 7):
        path.write_text(text[:end])
        file.read(**GROWING)
    path.write_text(text)
    assert as_dict(file.read()) == as_dict(opened(path).read())
    assert len(file.read().unique_id) == 10


def hdf5(path, **datasets):
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name.replace("__", "/")] = values


def test_hdf5_by_path_or_name(path):
    hdf5(path, stage__x=[1.0, 2.0], stage__y=[3.0, 4.0], stage__id=[5, 6], x=[7, 8], y=[9, 10], id=[6, 6])
    assert as_dict(opened(path, x="/stage/x", y="/stage/y").read()) == {5: (3.0, 1.0), 6: (4.0, 2.0)}
    assert as_dict(opened(path).read()) == {6: (9.5, 7.5)}


def test_hdf5_as_area_detector_has_it(path):
    folder = UNIQUE_ID.rpartition("/")[0]
    hdf5(path, **{UNIQUE_ID: [3, 4], f"{folder}/PosX": [1.0, 2.0], f"{folder}/PosY": [5.0, 6.0]})
    assert as_dict(opened(path, x="PosX", y="PosY").read()) == {3: (5.0, 1.0), 4: (6.0, 2.0)}


def test_hdf5_as_our_scan_files_have_it(path):
    hdf5(path, **{UNIQUE_ID: [3, 4], TRANSLATION: [[1.0, 5.0, 0.0], [2.0, 6.0, 0.0]]})
    assert as_dict(opened(path, x=TRANSLATION, y=TRANSLATION).read()) == {3: (5.0, 1.0), 4: (6.0, 2.0)}


def test_hdf5_with_several_samples_a_frame(path):
    hdf5(path, x=[[1.0, 3.0], [2.0, 4.0]], y=[[0.0, 1.0], [2.0, 3.0]], id=[1, 2])
    assert as_dict(opened(path).read()) == {1: (0.5, 2.0), 2: (2.5, 3.0)}


@pytest.mark.parametrize(
    ("datasets", "reason"),
    [
        ({"x": [1.0], "id": [1]}, "no dataset /y or"),
        ({"x": [1.0], "y": [1.0]}, "no frame ids"),
        ({"x": [1.0, 2.0], "y": [1.0], "id": [1, 2]}, "2 ids in /id but 1 positions in /y"),
        ({"x": [1.0], "y": [np.nan], "id": [1]}, "/y is NaN or infinite at index 0"),
        ({"x": [1.0], "y": [1.0], "id": [1.5]}, "/id holds what is no frame id"),
        ({"x": [1.0], "y": [1.0], "id": [[1]]}, "/id must be"),
        ({"x": ["one"], "y": [1.0], "id": [1]}, "/x must hold numbers"),
    ],
)
def test_what_is_wrong_with_hdf5_is_named(path, datasets, reason):
    hdf5(path, **datasets)
    with pytest.raises(PositionFileError) as refused:
        opened(path).read()
    assert reason in str(refused.value) and str(path) in str(refused.value)


def test_one_dataset_for_both_axes_has_columns(path):
    hdf5(path, both=[1.0, 2.0], id=[1, 2])
    with pytest.raises(PositionFileError, match=r"must be \(N, 2\) or \(N, 3\)"):
        opened(path, x="both", y="both").read()


def test_hdf5_that_may_be_in_the_writing_is_not_touched_and_a_cut_one_refused(path):
    hdf5(path, x=np.arange(1e4), y=np.arange(1e4), id=np.arange(10_000))
    assert opened(path).read(**GROWING) is None
    os.truncate(path, 5000)
    with pytest.raises(PositionFileError, match="truncated or damaged"):
        opened(path).read()


WRITER = "import h5py, sys; file = h5py.File(sys.argv[1], 'a'); file.flush(); print('open', flush=True); input()"


def test_a_writer_keeps_us_not_away_nor_we_a_writer(path, limited):
    hdf5(path, x=[1.0], y=[2.0], id=[3])
    command = [sys.executable, "-c", WRITER, str(path)]
    with limited(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)) as writer:
        assert writer.stdout.readline() == "open\n"
        assert as_dict(opened(path).read()) == {3: (2.0, 1.0)}
        writer.communicate("\n")
    assert writer.returncode == 0
