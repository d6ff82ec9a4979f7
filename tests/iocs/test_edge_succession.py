"""Which model is to serve, whatever is announced, refused or dies in whichever order."""

import hashlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from made_models import write_model

from iocs.edge_messages import DropModel, LoadModel, ModelDropped, ModelRefused, Swapped
from iocs.edge_models import Announcement, KeptModel, ModelStore
from iocs.edge_succession import DEATHS, FETCHING, MODEL_IDLE, REFUSED, Succession
from pvdb import Pv, edge

PATIENCE_S = 300.0


class Ioc:
    """What the succession shows and asks of an IOC; calls from other threads are made when the test says so."""

    def __init__(self) -> None:
        self.shown: dict[Pv, Any] = {edge.REFUSED: ""}
        self.told: list[str] = []
        self.calls: queue.Queue[tuple[Callable[..., None], tuple[Any, ...]]] = queue.Queue()
        self.loop = SimpleNamespace(call_soon_threadsafe=lambda call, *values: self.calls.put((call, values)))

    def post(self, pv: Pv, value: Any, **_: Any) -> None:
        self.shown[pv] = value

    def value(self, pv: Pv) -> Any:
        return self.shown[pv]

    def tell(self, _: Pv, text: str, *severity: Any) -> None:
        self.told.append(text)


class Line:
    """A succession between a store of models and a stream process that is played."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ioc, self.store = folder, Ioc(), ModelStore(folder / "models")
        self.commands: list[LoadModel | DropModel] = []
        self.is_there = True
        self.models = self.started()

    def started(self) -> Succession:
        """The edge IOC as it starts."""
        return Succession(self.ioc, self.store, "NOBODY:", fetch_s=0.05, trial_s=1e6, send=self._send)  # type: ignore[arg-type]

    def keep(self, version: int) -> Announcement:
        """Have a model on the edge's disk."""
        onnx, card = write_model(self.folder, version, version / 10)
        announcement = Announcement(version, hashlib.sha256(onnx.read_bytes()).hexdigest(), version)
        self.store.put(announcement, card.read_text(), onnx.read_bytes())
        return announcement

    def announce(self, announcement: Announcement) -> None:
        self.models._announced(str(announcement))

    def fetched(self) -> None:
        """Go on when what was asked for is fetched."""
        call, values = self.ioc.calls.get(timeout=PATIENCE_S)
        call(*values)

    def loading(self) -> KeptModel:
        """The model that the stream process was told to load last."""
        return next(c.model for c in reversed(self.commands) if isinstance(c, LoadModel))

    def swap(self) -> None:
        """The stream process takes the model it was told to load."""
        self.models.swapped(Swapped(self.loading(), "engine", None))

    def serve(self, version: int) -> Announcement:
        """A model from its announcement until it is live."""
        announcement = self.keep(version)
        self.announce(announcement)
        self.fetched()
        self.swap()
        assert self.ioc.shown[edge.MODEL] == version
        return announcement

    def _send(self, command: LoadModel | DropModel) -> bool:
        if self.is_there:
            self.commands.append(command)
        return self.is_there


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    made = Line(tmp_path)
    made.models.begin()
    yield made
    made.models.close()


def test_a_model_that_is_not_wanted_any_more_is_called_off_and_the_live_one_needs_no_other_trial(line: Line) -> None:
    first = line.serve(1)
    line.announce(line.keep(2))
    line.fetched()
    line.announce(first)
    assert line.commands[-1] == DropModel(line.loading()) and line.loading().announcement.version == 2
    assert line.ioc.shown[edge.MODEL_STATE] == MODEL_IDLE
    line.models.dropped(ModelDropped(line.loading()))
    assert line.ioc.shown[edge.MODEL] == 1
    line.serve(3)


def test_a_model_that_went_live_in_the_moment_when_another_was_wanted_is_replaced(line: Line) -> None:
    first = line.serve(1)
    line.announce(line.keep(2))
    line.fetched()
    line.announce(first)
    line.swap()  # the news of it was on its way
    assert line.ioc.shown[edge.MODEL] == 2
    line.fetched()
    assert line.loading() == LoadModel(line.store.get(first), proven=True).model  # type: ignore[arg-type]
    assert isinstance(line.commands[-1], LoadModel) and line.commands[-1].proven, "it has served before"
    line.swap()
    assert (line.ioc.shown[edge.MODEL], line.ioc.shown[edge.MODEL_STATE]) == (1, MODEL_IDLE)


def test_a_newer_announcement_calls_off_the_one_before(line: Line) -> None:
    line.serve(1)
    line.announce(line.keep(2))
    line.fetched()
    line.announce(line.keep(3))
    assert isinstance(line.commands[-1], DropModel)
    line.fetched()
    line.models.dropped(ModelDropped(line.loading()))
    assert line.loading().announcement.version == 3
    line.swap()
    assert line.ioc.shown[edge.MODEL] == 3


def test_the_last_model_serves_again_before_the_one_that_is_wanted(line: Line) -> None:
    line.serve(1)
    line.announce(line.keep(2))
    line.is_there = False
    line.models.ended("died")
    assert (line.ioc.shown[edge.MODEL], line.ioc.shown[edge.ENGINE]) == (0, "none")
    line.fetched()
    line.is_there = True
    line.models.begin()
    assert line.loading().announcement.version == 1
    line.swap()
    assert line.loading().announcement.version == 2
    assert not line.commands[-1].proven  # type: ignore[union-attr]
    line.swap()
    assert (line.ioc.shown[edge.MODEL], line.ioc.shown[edge.MODEL_STATE]) == (2, MODEL_IDLE)


def test_a_model_that_kills_one_process_after_the_other_is_refused_and_the_one_before_serves(line: Line) -> None:
    line.serve(1)
    line.serve(2)
    for _ in range(DEATHS):
        line.models.ended("it died")
        line.models.begin()
        assert line.loading().announcement.version == 2
    line.models.ended("it died")
    assert line.ioc.shown[edge.REFUSED].startswith("2 2 it died")
    line.models.begin()
    assert line.loading().announcement.version == 1
    line.swap()
    restarted = line.started()
    restarted.begin()
    assert line.loading().announcement.version == 1


def test_a_candidate_that_kills_its_process_is_refused_at_once(line: Line) -> None:
    line.serve(1)
    line.announce(line.keep(2))
    line.fetched()
    line.models.ended("it died")
    assert line.ioc.shown[edge.MODEL_STATE] == REFUSED
    line.models.begin()
    assert line.loading().announcement.version == 1


def test_a_model_whose_file_was_changed_is_fetched_again_at_the_next_start(line: Line) -> None:
    first = line.serve(1)
    kept = line.store.get(first)
    assert kept is not None
    kept.onnx.write_bytes(b"another")
    line.models.ended("died")
    line.models.begin()
    assert line.ioc.shown[edge.MODEL_STATE] == FETCHING
    assert any("damaged on disk" in text for text in line.ioc.told)
    line.keep(1)
    line.fetched()
    line.swap()
    assert line.ioc.shown[edge.MODEL] == 1


def test_when_the_last_model_is_refused_the_one_before_serves(line: Line) -> None:
    line.serve(1)
    line.serve(2)
    line.models.ended("died")
    line.models.begin()
    line.models.refused(ModelRefused(line.loading(), "no memory"))
    assert line.ioc.shown[edge.REFUSED] == "2 2 no memory"
    assert line.loading().announcement.version == 1


def test_a_model_takes_only_so_long(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    line.serve(1)
    assert not line.models.overdue
    line.announce(line.keep(2))
    line.fetched()
    assert not line.models.overdue
    monkeypatch.setattr("iocs.edge_succession.time.monotonic", lambda: 1e12)
    assert line.models.overdue
