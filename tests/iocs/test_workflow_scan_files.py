"""Files of areaDetector's plugin, with frames and positions in files of their own, through the whole workflow IOC."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from following import Following
from harness import Process, start_ioc, write_config

from benchmarks.plain_files import ATTRIBUTES, DATA, write_mda, write_plain
from iocs.client import ClientError
from phasing.geometry import Geometry
from phasing.pairs import load_pairs
from phasing.reconstruction import Reconstruction
from phasing.simulate import SimulatedScan, spiral
from pvdb import Pv
from pvdb import workflow as pvs

PATIENCE_S = 600.0
GEOMETRY = Geometry(10_400.0, 1.55, 110e-6, (64, 64), 64)
FRAMES = 40
IDS = 700 + np.arange(FRAMES)
POSITION_M = spiral(FRAMES, 150e-9)
SETTINGS = """
[reconstruct]
num_epochs = 2
[workflow]
nice = 0
threads_per_worker = 1
[scan_files.positions]
x = "m1.RBV"
y = "m2.RBV"
"""
WATCHED = (pvs.SCAN_MESSAGE, pvs.LAST_ACCEPTED, pvs.QUEUED_RUNS, pvs.WAITING_SCANS, pvs.POSITION_FILE)


class Workplace:
    """A workflow IOC for files that say little of themselves."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.scans = folder / "data" / "scans"
        self.scans.mkdir(parents=True)
        self.computed = folder / "data"
        prefix = f"F{os.getpid()}{folder.name[-6:]}:"
        self.config = write_config(folder, prefix, SETTINGS + more)
        with ExitStack() as parts:
            self.ioc: Process = start_ioc("workflow", self.config)
            parts.callback(lambda: self.ioc.stop())
            self.client = parts.enter_context(closing(Following(prefix)))
            self.client.watch(*WATCHED)
            self.client.put(pvs.STANDBY, "On")
            self._parts = parts.pop_all()

    def close(self) -> None:
        self._parts.close()

    def put(self, action: Pv, path: Path, positions: Path | None = None) -> None:
        self.client.put(pvs.FILE, str(path))
        if positions is not None:
            self.client.put(pvs.POSITION_FILE, str(positions))
        self.client.put(action, 1, timeout_s=PATIENCE_S)

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        self.client.wait(condition, what, PATIENCE_S)


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[Workplace]:
    with closing(Workplace(tmp_path)) as made:
        yield made


def write_linked(folder: Path, name: str) -> Path:
    """A scan as a detector writes it that has frames in further files, behind links."""
    counts = np.array(list(SimulatedScan(GEOMETRY, POSITION_M, seed=1).frames()), np.uint16)
    half = FRAMES // 2
    with h5py.File(folder / f"{name}.h5", "w") as file:
        for number, rows in enumerate((slice(0, half), slice(half, FRAMES)), 1):
            part = write_plain(folder / f"{name}_data_{number:06}.h5", counts[rows], IDS[rows])
            file[f"/entry/data/data_{number:06}"] = h5py.ExternalLink(part.name, DATA)
        file[f"{ATTRIBUTES}/NDArrayUniqueId"] = IDS
    return folder / f"{name}.h5"


def write_positions(path: Path, frames: int = FRAMES) -> Path:
    x_um, y_um = (1e6 * POSITION_M[:frames, axis] for axis in (1, 0))
    motors = {"m1.RBV": x_um.tolist(), "m2.RBV": y_um.tolist()}
    return write_mda(path, motors, {"det:image1:UniqueId_RBV": IDS[:frames].tolist()})


def test_linked_frames_and_the_positions_of_an_sscan_become_training_pairs(workplace: Workplace) -> None:
    path = write_linked(workplace.scans, "linked")
    positions = write_positions(workplace.scans / "linked.mda", FRAMES - 2)
    with pytest.raises(ClientError, match=r"linked.h5: it holds no positions .no attribute m2.RBV or m1.RBV."):
        workplace.put(pvs.SUBMIT, path)
    with pytest.raises(ClientError, match="40 frames but 38 positions: 2 frames have none, the first is 738"):
        workplace.put(pvs.SUBMIT, path, positions)
    assert workplace.client.get(pvs.POSITION_FILE) == str(positions), "it is kept until a scan is accepted"
    workplace.client.put(pvs.MAX_MISSING, 2)
    workplace.put(pvs.RUN, path)
    assert workplace.client.get(pvs.POSITION_FILE) == ""
    (run,) = (row for row in workplace.client.get(pvs.FLOW_TABLE)["run"])
    (pairs,) = workplace.computed.rglob(f"pairs/{run}")
    made = load_pairs(pairs)
    assert len(made.unique_id) and set(made.unique_id) <= set(IDS[: FRAMES - 2])
    (copies,) = workplace.computed.rglob(f"scans/{run}")
    assert {file.relative_to(copies).as_posix() for file in copies.rglob("*") if file.is_file()} == {
        "linked.h5", "linked_data_000001.h5", "linked_data_000002.h5", "positions/linked.mda",
    }  # fmt: skip


def test_a_scan_without_one_of_its_files_is_refused_naming_it(workplace: Workplace) -> None:
    path = write_linked(workplace.scans, "broken")
    (workplace.scans / "broken_data_000002.h5").unlink()
    with pytest.raises(ClientError, match=r"files that broken.h5 links to are missing: broken_data_000002.h5"):
        workplace.put(pvs.SUBMIT, path, write_positions(workplace.scans / "p.mda"))
    assert "broken_data_000002.h5" in workplace.client.get(pvs.SCAN_MESSAGE)


def test_files_that_belong_to_a_scan_are_none_when_it_catches_up(tmp_path: Path) -> None:
    settings = '[scan_files]\nposition_file = "{stem}.mda"\n[auto]\non = true\npatterns = ["*.h5", "*.mda"]\n'
    with closing(Workplace(tmp_path, settings)) as workplace:
        workplace.client.put(pvs.HOLD, "On")
        workplace.ioc.kill()
        path = write_linked(workplace.scans, "late")
        write_positions(workplace.scans / "late.mda")
        workplace.ioc = start_ioc("workflow", workplace.config)
        workplace.until(lambda: workplace.client.value(pvs.LAST_ACCEPTED) == str(path), "the scan is accepted")
        workplace.until(lambda: workplace.client.value(pvs.WAITING_SCANS) == 0, "nothing is left to look at")
        assert len(workplace.client.get(pvs.FLOW_TABLE)["run"]) == 1


def test_a_scan_starts_from_the_reconstruction_of_a_former_run(workplace: Workplace) -> None:
    client, path = workplace.client, write_linked(workplace.scans, "linked")
    client.put(pvs.FORMER_RUN, "linked-0000")
    with pytest.raises(ClientError, match="no scan can start from linked-0000: there is no such run"):
        workplace.put(pvs.SUBMIT, path, write_positions(workplace.scans / "linked.mda"))
    client.put(pvs.FORMER_RUN, "")
    client.put(pvs.NUM_EPOCHS, 8)
    workplace.put(pvs.RUN, path)
    (first,) = client.get(pvs.FLOW_TABLE)["run"]
    client.put(pvs.FORMER_RUN, first)
    workplace.put(pvs.RUN, path, write_positions(workplace.scans / "linked.mda"))
    assert client.get(pvs.FORMER_RUN) == "", "the next scan starts anew"
    second = client.get(pvs.FLOW_TABLE)["run"][0]
    errors = [
        Reconstruction.load(next(workplace.computed.rglob(f"results/**/{run}.h5"))).error_history
        for run in (first, second)
    ]
    assert errors[1][0] < errors[0][-1] < errors[0][0]
