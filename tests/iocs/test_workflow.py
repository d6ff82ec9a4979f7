"""The workflow IOC with its real parts: SQLite, worker processes, pty-chi, PyTorch, the registry."""

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, closing
from pathlib import Path

import h5py
import numpy as np
import pytest
from following import Following
from harness import Process, start_ioc, start_script, wait_gone, write_config
from p4p.client.thread import Context

from benchmarks.processes import descendants
from iocs.client import ClientError
from iocs.edge_models import Announcement
from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanfile import ScanWriter, read_scan
from phasing.simulate import SimulatedScan, spiral
from pvdb import Pv, Severity
from pvdb import workflow as pvs

HERE = Path(__file__).parent
PATIENCE_S = 900.0
PREFIX = f"W{os.getpid()}:"
SETTINGS = """
[train]
num_epochs = 2
batch_size = 16
[reconstruct]
num_epochs = 3
batch_size = 20
[workflow]
edge_timeout_s = 1.0
nice = 0
threads_per_worker = 1
"""
WATCHED = (
    pvs.FLOW_STATE, pvs.FLOW_MESSAGE, pvs.SUCCEEDED_RUNS, pvs.FAILED_RUNS, pvs.ACTIVE_RUNS, pvs.QUEUED_RUNS,
    pvs.TRAIN_STATE, pvs.EPOCH, pvs.CANDIDATE, pvs.VERDICT, pvs.ANNOUNCED, pvs.SCAN_MESSAGE, pvs.RECON_STATE,
    pvs.RECON_EPOCH, pvs.RECON_MESSAGE, pvs.TRANSFER_STATE, pvs.NUM_SAMPLES, pvs.MODEL_MESSAGE, pvs.TRAIN_MESSAGE,
    pvs.ACTIVE_MODEL,
)  # fmt: skip


class Workplace:
    """One workflow IOC and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scans = folder / "data" / "scans"
        self.scans.mkdir(parents=True)
        self.config = write_config(folder, PREFIX, SETTINGS)
        with ExitStack() as parts:
            self.ioc: Process = start_ioc("workflow", self.config)
            parts.callback(lambda: self.ioc.stop())
            self.client = parts.enter_context(closing(Following(PREFIX)))
            self.client.watch(*WATCHED)
            self._parts = parts.pop_all()

    def close(self) -> None:
        """Stop every part, also when one does not stop well."""
        self._parts.close()

    def write_scan(self, name: str, *, seed: int = 0, num_frames: int = 60, energy_ev: float = 10_400.0) -> Path:
        """A small simulated scan."""
        geometry = Geometry(
            energy_ev=energy_ev, distance_m=1.55, pixel_size_m=110e-6, detector_shape_px=(64, 64), crop_px=64
        )
        positions = spiral(num_frames, 150e-9, center_m=(0.0, seed * 5e-6))
        scan = SimulatedScan(geometry, positions, seed=seed)
        path = self.scans / name
        with ScanWriter(path, f"scan-{seed}", geometry, dtype=np.dtype(np.uint16)) as writer:
            for i, counts in enumerate(scan.frames()):
                y_m, x_m = positions[i]
                writer.append(Frame(i + 1, 1e9 + i, f"scan-{seed}", counts, (float(y_m), float(x_m))))
        return path

    def submit(self, path: Path) -> None:
        self.client.put(pvs.FILE, str(path))
        self.client.put(pvs.SUBMIT, 1)

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        self.client.wait(condition, what, PATIENCE_S)

    def passing(self, pv: Pv, *values: object) -> AbstractContextManager[None]:
        """What is done in the block makes a PV show values one after another, each perhaps for a short time."""
        return self.client.passing(pv, *values, timeout_s=PATIENCE_S)

    def value(self, pv: object) -> object:
        return self.client.value(pv)  # type: ignore[arg-type]

    def severity(self, pv: Pv) -> Severity:
        """The alarm that a PV has now."""
        with Context("pva", conf=dict(os.environ), useenv=False, nt=False) as context:
            return Severity(context.get(self.client.name(pv), timeout=PATIENCE_S).alarm.severity)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workplace]:
    with closing(Workplace(tmp_path_factory.mktemp("workflow"))) as made:
        yield made


def test_scan_files_that_cannot_be_used_are_refused_with_the_reason(workplace: Workplace) -> None:
    good = workplace.write_scan("good.h5", seed=9)
    truncated, nan, unequal = (workplace.scans / f"{n}.h5" for n in ("truncated", "nan", "unequal"))
    truncated.write_bytes(good.read_bytes()[:5000])
    for path in (nan, unequal):
        path.write_bytes(good.read_bytes())
    with h5py.File(nan, "r+") as file:
        file["/entry_1/data_1/translation"][3] = np.nan
    with h5py.File(unequal, "r+") as file:
        kept = file["/entry_1/data_1/translation"][:-2]
        _replace(file, "/entry_1/data_1/translation", kept)
    elsewhere = workplace.folder / "elsewhere.h5"
    elsewhere.write_bytes(good.read_bytes())
    for path, reason in (
        (workplace.scans / "missing.h5", "missing.h5"),
        (truncated, "truncated.h5"),
        (nan, "nan.h5"),
        (unequal, "60"),
        (elsewhere, "workflow.scans"),
    ):
        workplace.client.put(pvs.FILE, str(path))
        with pytest.raises(ClientError, match=reason):
            workplace.client.put(pvs.SUBMIT, 1)
        workplace.until(lambda reason=reason: reason in workplace.value(pvs.SCAN_MESSAGE), reason)
    assert workplace.value(pvs.SUCCEEDED_RUNS) == workplace.value(pvs.FAILED_RUNS) == 0


def _replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    attributes = dict(file[name].attrs)
    del file[name]
    file[name] = values
    file[name].attrs.update(attributes)


def test_a_run_moves_every_stage_and_ends_in_an_announced_model(workplace: Workplace) -> None:
    workplace.client.put(pvs.FILE, str(workplace.write_scan("first.h5", seed=1)))
    with (
        workplace.passing(pvs.RECON_STATE, "Running", "Done"),
        workplace.passing(pvs.RECON_EPOCH, 3),
        workplace.passing(pvs.TRAIN_STATE, "Training", "Idle"),
        workplace.passing(pvs.ANNOUNCED, bool),
    ):
        workplace.client.put_aside(pvs.RUN, 1).wait()
    announced = Announcement.parse(str(workplace.value(pvs.ANNOUNCED)))
    assert announced.version == workplace.client.get(pvs.CANDIDATE) == 1
    workplace.until(lambda: workplace.value(pvs.TRANSFER_STATE) == "Done", "the transfer is done")
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Idle", "training is over")
    assert len(workplace.client.get(pvs.LOSS_HISTORY)) == len(workplace.client.get(pvs.VAL_LOSS_HISTORY)) == 2
    workplace.until(lambda: str(workplace.value(pvs.VERDICT)).startswith("accepted"), "the verdict")
    workplace.until(
        lambda: all("succeeded" in state for state in workplace.client.get(pvs.FLOW_TABLE)["state"]), "the table"
    )
    assert workplace.client.get(pvs.FLOW_TABLE)["kind"] == ["round", "run"]
    assert workplace.client.get(pvs.MODEL_TABLE)["state"] == ["active"]


def test_a_worse_model_is_refused_by_the_gate_and_can_be_accepted_by_hand(workplace: Workplace) -> None:
    """A gate that asks for the impossible would need another configuration; Manual asks for a person."""
    workplace.client.put(pvs.GATE, "Manual")
    before = workplace.value(pvs.ANNOUNCED)
    workplace.client.put(pvs.START, 1, timeout_s=PATIENCE_S)
    workplace.until(lambda: workplace.value(pvs.CANDIDATE) == 2, "a candidate")
    workplace.until(lambda: "waits for Accept" in str(workplace.value(pvs.VERDICT)), "the verdict")
    assert workplace.client.get(pvs.ANNOUNCED) == before
    with pytest.raises(ClientError, match="has not taken version 2"):
        workplace.client.put(pvs.ACCEPT, 1)  # no edge is there
    workplace.until(lambda: str(workplace.value(pvs.ANNOUNCED)).startswith("2 "), "version 2 is announced")
    with pytest.raises(ClientError, match="has not taken version 1"):
        workplace.client.put(pvs.ROLLBACK, 1)
    workplace.until(lambda: str(workplace.value(pvs.ANNOUNCED)).startswith("1 "), "version 1 is announced again")
    with pytest.raises(ClientError, match="no parent"):
        workplace.client.put(pvs.ROLLBACK, 1)
    with pytest.raises(ClientError, match="no model version 77"):
        workplace.client.put(pvs.SELECT, 77)
    workplace.client.put(pvs.GATE, "Better only")


def test_a_corrupted_model_cannot_be_selected(workplace: Workplace) -> None:
    announced = workplace.client.get(pvs.ANNOUNCED)
    objects = workplace.folder / "data" / "registry" / "objects"
    digest = _digest_of(workplace, 2)
    path = objects / digest[:2] / digest
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(ClientError, match="corrupted"):
        workplace.client.put(pvs.SELECT, 2)
    path.write_bytes(content)
    assert workplace.client.get(pvs.ANNOUNCED) == announced


def test_a_model_that_the_edge_refuses_gives_way_to_the_one_it_runs(workplace: Workplace) -> None:
    """Also when the workflow IOC was started after it had announced the model."""
    with pytest.raises(ClientError, match="has not taken version 2"):
        workplace.client.put(pvs.SELECT, 2)
    workplace.ioc.stop()
    workplace.until(lambda: workplace.value(pvs.ANNOUNCED) is None, "the IOC is gone")
    workplace.ioc = start_ioc("workflow", workplace.config)
    stub = start_script(HERE / "edge_stub.py", workplace.folder / "stub.log", PREFIX)
    stub.tell(json.dumps({"running": 1}))
    workplace.until(lambda: workplace.value(pvs.ACTIVE_MODEL) == 1, "the edge runs version 1")
    announced = Announcement.parse(workplace.client.get(pvs.ANNOUNCED))
    assert announced.version == 2
    stub.tell(json.dumps({"refused": f"2 {announced.serial} it tastes bad"}))
    workplace.until(lambda: str(workplace.value(pvs.ANNOUNCED)).startswith("1 "), "version 1 is announced again")
    assert "it tastes bad" in str(workplace.client.get(pvs.MODEL_MESSAGE))
    workplace.until(lambda: workplace.client.get(pvs.MODEL_TABLE)["state"] == ["refused", "active"], "the table")
    workplace.client.put(pvs.SELECT, 1)
    stub.stop()


def _digest_of(workplace: Workplace, version: int) -> str:
    from phasing.store import Registry

    return Registry(workplace.folder / "data" / "registry").card(version).digest


def test_hold_keeps_new_work_back_and_standby_keeps_training_back(workplace: Workplace) -> None:
    done = int(workplace.client.get(pvs.SUCCEEDED_RUNS))
    workplace.client.put(pvs.STANDBY, "On")
    workplace.client.put(pvs.EPOCHS, 1000)  # more than the round can do before it is aborted
    workplace.client.put(pvs.HOLD, "On")
    workplace.submit(workplace.write_scan("held.h5", seed=2))
    workplace.until(lambda: workplace.value(pvs.QUEUED_RUNS) == 1, "one run waits")
    assert workplace.client.get(pvs.FLOW_STATE) == "Hold"
    with pytest.raises(ClientError, match="already in run"):
        workplace.submit(workplace.scans / "held.h5")
    workplace.client.put(pvs.HOLD, "Off")
    workplace.until(lambda: workplace.value(pvs.SUCCEEDED_RUNS) == done + 1, "the run is done")
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Standby", "training stands by")
    workplace.client.put(pvs.STANDBY, "Off")
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Training", "a round begins by itself")
    with pytest.raises(ClientError, match="a round is running"):
        workplace.client.put(pvs.START, 1)
    workplace.client.put(pvs.ABORT, 1)
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Idle", "the round is aborted")
    workplace.client.put(pvs.EPOCHS, 2)


def test_a_journal_that_cannot_be_written_is_an_alarm_until_it_can(workplace: Workplace) -> None:
    """A table is taken out of it where at a beamline a disk is full; what waited goes on when it is back."""
    workplace.client.put(pvs.STANDBY, "On")
    done = int(workplace.client.get(pvs.SUCCEEDED_RUNS))
    workplace.client.put(pvs.HOLD, "On")
    workplace.submit(workplace.write_scan("stuck.h5", seed=7))
    workplace.until(lambda: workplace.value(pvs.QUEUED_RUNS) == 1, "one run waits")
    with closing(sqlite3.connect(workplace.folder / "data" / "journal" / "flows.sqlite")) as journal:
        journal.execute("ALTER TABLE run RENAME TO away")
        workplace.client.put(pvs.HOLD, "Off")
        workplace.until(lambda: "until the journal" in str(workplace.value(pvs.FLOW_MESSAGE)), "it is told")
        assert workplace.severity(pvs.FLOW_MESSAGE) == Severity.MAJOR
        with workplace.passing(pvs.FLOW_MESSAGE, lambda text: "written again" in text):
            journal.execute("ALTER TABLE away RENAME TO run")
    assert workplace.severity(pvs.FLOW_MESSAGE) == Severity.NO_ALARM
    workplace.until(lambda: workplace.value(pvs.SUCCEEDED_RUNS) == done + 1, "the run is done")


def test_gate_and_standby_are_as_an_operator_left_them_when_the_ioc_starts_again(workplace: Workplace) -> None:
    workplace.client.put(pvs.GATE, "Manual")
    workplace.client.put(pvs.STANDBY, "On")
    workplace.ioc.stop()
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) is None, "the IOC is gone")
    workplace.ioc = start_ioc("workflow", workplace.config)
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Standby", "training stands by")
    assert [workplace.client.get(pv) for pv in (pvs.GATE, pvs.STANDBY)] == ["Manual", "On"]
    workplace.client.put(pvs.GATE, "Better only")


def _fail_a_run(workplace: Workplace, path: Path) -> Path:
    """Submit a scan file and take it away before its run begins; returns where it is now."""
    workplace.client.put(pvs.HOLD, "On")
    workplace.submit(path)
    away = path.rename(path.with_suffix(".away"))
    workplace.client.put(pvs.HOLD, "Off")
    workplace.until(lambda: workplace.value(pvs.FAILED_RUNS) == 1, "the run fails")
    return away


def test_a_failing_stage_sets_alarm_and_message_and_can_be_retried(workplace: Workplace) -> None:
    workplace.client.put(pvs.STANDBY, "On")
    path = workplace.write_scan("moody.h5", seed=3)
    away = _fail_a_run(workplace, path)
    workplace.until(lambda: "moody.h5" in str(workplace.value(pvs.FLOW_MESSAGE)), "the message names the file")
    workplace.until(lambda: workplace.value(pvs.TRANSFER_STATE) == "Failed", "the stage is in alarm")
    workplace.until(lambda: workplace.value(pvs.FLOW_STATE) == "Failed", "the workflow is in alarm")
    away.rename(path)
    workplace.client.put(pvs.RETRY, 1)
    workplace.until(lambda: workplace.value(pvs.FAILED_RUNS) == 0, "the run is tried again")
    workplace.until(lambda: workplace.value(pvs.FLOW_STATE) == "Idle", "the run is done")
    assert workplace.client.get(pvs.TRANSFER_STATE) == "Done"
    assert "failed" not in workplace.client.get(pvs.TRANSFER_MESSAGE)
    with pytest.raises(ClientError, match="no run has failed"):
        workplace.client.put(pvs.RETRY, 1)


def test_work_goes_on_where_it_was_when_the_ioc_is_killed(workplace: Workplace) -> None:
    done = int(workplace.client.get(pvs.SUCCEEDED_RUNS))
    workplace.client.put(pvs.NUM_EPOCHS, 40)
    workplace.submit(workplace.write_scan("killed.h5", seed=4))
    workplace.until(lambda: (workplace.value(pvs.RECON_EPOCH) or 0) >= 4, "reconstruction is at work")
    workers = descendants(workplace.ioc.process.pid)
    os.kill(workplace.ioc.process.pid, signal.SIGKILL)
    workplace.ioc.kill()
    workplace.until(lambda: workplace.value(pvs.FLOW_STATE) is None, "the IOC is gone")
    wait_gone(workers)
    workplace.ioc = start_ioc("workflow", workplace.config)
    workplace.until(lambda: workplace.value(pvs.SUCCEEDED_RUNS) == done + 1, "the run is done once")
    scans = [c for c in workplace.client.get(pvs.FLOW_TABLE)["scan"] if c == "scan-4"]
    assert len(scans) == 1
    assert Announcement.parse(str(workplace.client.get(pvs.ANNOUNCED))).version >= 1


def test_stopping_the_ioc_keeps_the_run_that_a_put_waits_for(workplace: Workplace) -> None:
    """SIGTERM ends the waiting put as 0 would, but unlike 0 it is no wish to give the run up."""
    done = int(workplace.client.get(pvs.SUCCEEDED_RUNS))
    workplace.client.put(pvs.NUM_EPOCHS, 40)
    workplace.client.put(pvs.FILE, str(workplace.write_scan("stopped.h5", seed=5)))
    with workplace.passing(pvs.RECON_STATE, "Running"):
        workplace.client.put_aside(pvs.RUN, 1)
    workplace.ioc.stop()
    workplace.until(lambda: workplace.value(pvs.FLOW_STATE) is None, "the IOC is gone")
    workplace.ioc = start_ioc("workflow", workplace.config)
    workplace.until(lambda: workplace.value(pvs.SUCCEEDED_RUNS) == done + 1, "the run is done")


def test_a_failed_run_that_a_newer_one_stands_for_is_not_retried(workplace: Workplace) -> None:
    workplace.client.put(pvs.STANDBY, "On")
    done = int(workplace.client.get(pvs.SUCCEEDED_RUNS))
    path = workplace.write_scan("twice.h5", seed=6)
    away = _fail_a_run(workplace, path)
    away.rename(path)
    workplace.submit(path)
    workplace.until(lambda: workplace.value(pvs.SUCCEEDED_RUNS) == done + 1, "the newer run is done")
    with pytest.raises(ClientError, match="no run has failed"):
        workplace.client.put(pvs.RETRY, 1)


def test_training_goes_on_without_pairs_that_were_tidied_away(workplace: Workplace) -> None:
    workplace.client.put(pvs.STANDBY, "On")
    workplace.until(lambda: workplace.value(pvs.TRAIN_STATE) == "Standby", "no round is at work")
    (pairs,) = (workplace.folder / "data" / "compute" / "demo" / "W-pattern" / "pairs").glob("first-*")
    shutil.rmtree(pairs)
    before = int(workplace.client.get(pvs.CANDIDATE))
    workplace.client.put(pvs.START, 1, timeout_s=PATIENCE_S)
    assert workplace.client.get(pvs.CANDIDATE) == before + 1


def test_the_scan_file_written_for_tests_is_whole(workplace: Workplace) -> None:
    assert read_scan(workplace.scans / "first.h5").num_frames == 60
