"""The files beside a scan file without which its frames cannot be read."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from benchmarks.plain_files import DATA, write_plain
from phasing.errors import ScanFileError
from phasing.linkedfiles import numbered_files, sibling_files

IDS = np.arange(3)
COUNTS = np.ones((3, 4, 4), np.uint16)


def linked(tmp_path: Path, *names: str) -> Path:
    with h5py.File(tmp_path / "master.h5", "w") as file:
        for number, name in enumerate(names):
            file[f"/entry/data/data_{number:06}"] = h5py.ExternalLink(name, DATA)
    return tmp_path / "master.h5"


def test_links_virtual_datasets_and_raw_files_are_all_found(tmp_path: Path) -> None:
    for name in ("a.h5", "b.h5"):
        write_plain(tmp_path / name, COUNTS, IDS)
    (tmp_path / "raw.bin").write_bytes(bytes(96))
    path = linked(tmp_path, "a.h5", "a.h5")
    with h5py.File(path, "a") as file:
        layout = h5py.VirtualLayout((3, 4, 4), np.uint16)
        layout[:] = h5py.VirtualSource("b.h5", DATA, (3, 4, 4))
        file.create_virtual_dataset("/deep/down/frames", layout)
        file.create_dataset("raw", (3, 4, 4), np.uint16, external=[("raw.bin", 0, 96)])
        file["/entry/again"] = file["/deep"]
    with h5py.File(tmp_path / "a.h5", "a") as file:
        file["back"] = h5py.ExternalLink("master.h5", "/")
    with h5py.File(tmp_path / "b.h5", "a") as file:
        file["more"] = h5py.ExternalLink("c.h5", "/")
    with pytest.raises(ScanFileError, match=r"files that b.h5 links to are missing: c.h5"):
        sibling_files(path)
    write_plain(tmp_path / "c.h5", COUNTS, IDS)
    assert {file.name for file in sibling_files(path)} == {"a.h5", "b.h5", "c.h5", "raw.bin"}


def test_missing_ones_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match=r"master.h5 links to are missing: one.h5, two.h5"):
        sibling_files(linked(tmp_path, "one.h5", "two.h5"))


@pytest.mark.parametrize("name", ["sub/a.h5", "../a.h5", "{folder}/a.h5"])
def test_links_out_of_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    name = name.format(folder=tmp_path)
    with pytest.raises(ScanFileError, match=r"linked files must lie in its own folder"):
        sibling_files(linked(tmp_path, name))


def test_numbered_files_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for name in ("s.h5", *(f"s_{number}.h5" for number in range(1, 12)), "s_x.h5", "t_1.h5", "s_1.h5.part"):
        write_plain(tmp_path / name, COUNTS, IDS)
    found = numbered_files(tmp_path / "s.h5", "{stem}_*.h5")
    assert [file.name for file in found] == [f"s_{number}.h5" for number in range(1, 12)]
    assert sibling_files(tmp_path / "s.h5", "{stem}_*.h5") == found
    assert sibling_files(tmp_path / "s.h5") == ()


def test_a_gap_in_the_numbers_is_named(tmp_path: Path) -> None:
    for number in (1, 2, 5):
        write_plain(tmp_path / f"s_{number:03}.h5", COUNTS, IDS)
    with pytest.raises(ScanFileError, match=r"2 of its numbered files are missing: s_003.h5, s_004.h5"):
        numbered_files(tmp_path / "s.h5", "{stem}_*.h5")


def test_a_pattern_without_a_number_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanFileError, match=r"need a \*"):
        numbered_files(tmp_path / "s.h5", "{stem}_data.h5")
