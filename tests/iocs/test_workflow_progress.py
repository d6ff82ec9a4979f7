"""Progress of runs and rounds on PVs, without an IOC."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.ports import Json
from hpc_bridge.progress import ProgressWriter
from hpc_bridge.remote_files import LocalFiles
from iocs.workflow_lines import JobLines
from iocs.workflow_progress import Progress
from pvdb import Severity
from pvdb import workflow as pvs

ROUND = RunRow("round-1", "round", "round", "Train", RunStatus.ACTIVE, 0.0, 0.0, None, "")


class Shown:
    """What was posted and told, in order."""

    def __init__(self, document: Json) -> None:
        self.posted: list[Any] = []
        self.told: list[Any] = []
        self.judged: dict[str, float] = {}
        ioc: Any = SimpleNamespace(
            post=lambda pv, value, **_: self.posted.append((pv, value)), tell=lambda *told: self.told.append(told)
        )
        pictures: Any = None
        lines = JobLines(LocalFiles(), is_remote=False)
        self.progress = Progress(ioc, pictures, lambda run_id: document, lines, self.judged.update)


@pytest.mark.parametrize("state", ["Elsewhere", "Send", "Train"])
def test_a_round_that_begins_does_not_show_the_former_rounds_epoch(state: str) -> None:
    shown = Shown({})
    shown.progress.moved(replace(ROUND, state=state))
    training = shown.posted.index((pvs.TRAIN_STATE, pvs.TRAIN_STATE.states.index("Training")))
    assert (pvs.EPOCH, 0) in shown.posted[:training]


def test_scans_that_a_round_left_out_are_named_in_alarm(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    shown = Shown({"train": {"progress": str(path)}})
    with ProgressWriter(path) as writer:
        skipped = ["scan a does not fit the incumbent: energy_ev differ"]
        writer.write("ended", job="train", skipped=skipped, why="all 3 epochs are done")
    shown.progress.follow(ROUND, {})
    text = "trained: all 3 epochs are done; left out: scan a does not fit the incumbent: energy_ev differ"
    assert (pvs.TRAIN_MESSAGE, text, Severity.MINOR) in shown.told


def test_a_round_that_goes_on_shows_the_epochs_it_has_done_and_what_its_incumbent_is_worth(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    shown = Shown({"train": {"progress": str(path)}})
    with ProgressWriter(path) as writer:
        figures = {
            "losses": [0.5, 0.4],
            "val_losses": [0.6, 0.5],
            "learning_rates": [1e-4, 2e-4],
            "skipped": ["scan x"],
        }
        counts = {"scans": ["a", "b"], "num_samples": 90, "num_held_out": 10, "new_scan_losses": {"b": 0.7}}
        writer.write("begun", job="train", **figures, **counts)
    shown.progress.follow(ROUND, {})
    for pv, value in (
        (pvs.EPOCH, 2),
        (pvs.NUM_SCANS, 2),
        (pvs.NUM_SAMPLES, 90),
        (pvs.LEFT_OUT, "scan x"),
        (pvs.LOSS_HISTORY, (0.5, 0.4)),
        (pvs.RATE_HISTORY, (1e-4, 2e-4)),
    ):
        assert (pv, value) in shown.posted
    assert shown.judged == {"b": 0.7}
