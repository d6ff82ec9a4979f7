"""The edge IOC with real streams: publisher, edge, model server and viewer each in a process of its own."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from following import Following
from harness import Process, start_ioc, start_script, wait_gone, write_config
from made_models import write_model

from benchmarks.processes import command_line
from iocs.client import ClientError
from iocs.demo_streams import Prediction, Predictions
from iocs.edge_models import Announcement
from pvdb import Pv, edge, workflow

HERE = Path(__file__).parent
PATIENCE_S = 600.0
COUNTERS = (
    edge.FRAMES_IN, edge.FRAMES_OUT, edge.FRAMES_MISSED, edge.FRAMES_DROPPED, edge.FRAMES_REJECTED,
    edge.FRAMES_NO_MODEL, edge.FRAMES_EMPTY,
)  # fmt: skip
WATCHED = (edge.STATE, edge.MODEL, edge.MODEL_STATE, edge.REFUSED, edge.MESSAGE, edge.SCAN_ID, *COUNTERS)


class Beamline:
    """One edge IOC with what it needs around it."""

    constants = ""
    """Code that changes constants of the product in the edge's process."""

    def __init__(self, folder: Path, prefix: str, more: str = "", *, engine: str = "onnxruntime") -> None:
        """Start everything; `more` goes into the edge's section of the configuration, sections below it included."""
        self.folder, self.prefix = folder, prefix
        self.stream = f"{prefix}Frames"
        section = f'[edge]\nstream = "{self.stream}"\nengine = "{engine}"\nthreads = 1\nfetch_timeout_s = 5.0\n'
        self.config = write_config(folder, prefix, section + more)
        self.models: Process | None = None
        with ExitStack() as parts:
            self._start(parts)
            self._parts = parts.pop_all()

    def _start(self, parts: ExitStack) -> None:
        """Start one part after the other; `parts` knows how each is stopped, also those that tests start again."""
        self.publisher = start_script(HERE / "frame_publisher.py", self.folder / "publisher.log", self.stream)
        parts.callback(lambda: self.publisher.stop())
        parts.callback(lambda: self.models and self.models.stop())
        self.edge = start_ioc("edge", self.config, self.constants)
        parts.callback(lambda: self.edge.stop())
        self.client = Following(self.prefix)
        parts.callback(self.client.close)
        self.client.watch(*WATCHED)
        self.predictions = parts.enter_context(closing(Predictions(f"{self.prefix}Edge:Phase")))

    def close(self) -> None:
        """Stop every part, also when one does not stop well."""
        self._parts.close()

    def start_models(self) -> None:
        self.models = start_script(HERE / "model_server.py", self.folder / "models.log", self.prefix, self.folder)

    def announce(self, version: int, phase_rad: float | None, **how: Any) -> None:
        if phase_rad is not None:
            write_model(self.folder, version, phase_rad)
        assert self.models is not None
        self.models.tell(json.dumps({"version": version, **how}))

    def release(self) -> None:
        """Let the model server answer, when it has announced all it was told to."""
        assert self.models is not None
        self.models.tell(json.dumps({"release": True}))

    def send(self, count: int, **how: Any) -> None:
        """Begin to stream; `wait_sent` waits for the end."""
        self.publisher.tell(json.dumps({"count": count, **how}))

    def wait_sent(self) -> None:
        self.publisher.wait_count("done", self.publisher.told)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.client.wait(condition, what, PATIENCE_S)

    def shows(self, pv: Pv, value: Any) -> None:
        self.until(lambda: self.client.value(pv) == value, f"{pv.name} is {value}")

    def passing(self, pv: Pv, *values: Any) -> AbstractContextManager[None]:
        """What is done in the block makes a PV show values one after another, each perhaps for a short time."""
        return self.client.passing(pv, *values, timeout_s=PATIENCE_S)

    def reset(self) -> None:
        """Have nothing counted, and that seen; only while nothing streams."""
        self.client.put(edge.RESET, 1)
        self.until(lambda: all(self.client.value(pv) == 0 for pv in COUNTERS), "the counters are zero")

    def go_live(self, version: int, phase_rad: float) -> None:
        self.announce(version, phase_rad)
        self.shows(edge.MODEL, version)


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[Beamline]:
    made = Beamline(tmp_path, f"E{os.getpid()}{tmp_path.name[-8:-1].replace('_', '')}:")
    # The stream is there when the first frames have come through: from then on none may be lost.
    try:
        made.until(lambda: made.client.value(edge.STATE) == "No model", "the edge is up")
        _connect(made)
        yield made
    finally:
        made.close()


def _connect(made: Beamline) -> None:
    """Send scans of one frame until one comes through, then count from zero: nothing is left on its way."""
    deadline = time.monotonic() + PATIENCE_S
    for attempt in count():
        assert time.monotonic() < deadline, "the edge does not see the stream, or its predictions are not seen"
        scan_id = f"connect-{attempt}"
        made.send(1, scan_id=scan_id)
        made.wait_sent()
        with suppress(ClientError):
            made.client.wait(partial(_came_through, made, scan_id), "the frame came through", 2.0 + attempt)
            break
    made.reset()


def _came_through(made: Beamline, scan_id: str) -> bool:
    if made.client.value(edge.SCAN_ID) != scan_id:
        return False
    return not made.client.value(edge.MODEL) or scan_id in {p.scan_id for p in made.predictions.of_last_scan()}


def _complete(predictions: list[Prediction], first: int, count: int) -> None:
    assert [p.unique_id for p in predictions] == list(range(first, first + count))


def test_without_a_model_it_says_so_and_counts(beamline: Beamline) -> None:
    beamline.send(30)
    beamline.shows(edge.FRAMES_NO_MODEL, 30)
    assert beamline.client.value(edge.STATE) == "No model"
    assert beamline.client.value(edge.FRAMES_MISSED) == 0


def test_models_are_swapped_while_frames_stream_and_the_last_serves_after_a_restart(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.reset()
    beamline.predictions.begin()
    beamline.send(403, rate_hz=200)
    beamline.predictions.wait_for(1, PATIENCE_S)
    beamline.announce(2, 0.2)
    beamline.shows(edge.MODEL, 2)
    beamline.send(100, first=404, rate_hz=200)  # the first may all have come before
    beamline.wait_sent()
    beamline.shows(edge.FRAMES_OUT, 503)
    beamline.predictions.wait_for(503, PATIENCE_S)
    predictions = beamline.predictions.of_last_scan()
    _complete(predictions, 1, 503)
    versions = [p.model_version for p in predictions]
    assert versions == sorted(versions)
    assert set(versions) == {1, 2}
    assert beamline.client.value(edge.FRAMES_MISSED) == 0

    assert beamline.models is not None
    beamline.models.stop()
    beamline.models = None
    beamline.edge.kill()
    beamline.shows(edge.MODEL, None)
    beamline.edge = start_ioc("edge", beamline.config)
    beamline.shows(edge.MODEL, 2)
    _connect(beamline)
    beamline.predictions.begin()
    beamline.send(5, first=500)
    beamline.shows(edge.FRAMES_OUT, 5)
    beamline.predictions.wait_for(5, PATIENCE_S)
    assert {p.model_version for p in beamline.predictions.of_last_scan()} == {2}


def test_a_model_that_cannot_be_trusted_is_refused_and_the_former_serves_on(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.announce(2, 0.2, lie=True)
    beamline.until(lambda: str(beamline.client.value(edge.REFUSED)).startswith("2 "), "version 2 is refused")
    assert "digest" in beamline.client.value(edge.REFUSED)
    beamline.announce(3, float("nan"))
    beamline.until(lambda: str(beamline.client.value(edge.REFUSED)).startswith("3 "), "version 3 is refused")
    beamline.until(lambda: "model 3 refused" in str(beamline.client.value(edge.MESSAGE)), "the reason is told")
    beamline.reset()
    beamline.predictions.begin()
    beamline.send(3)
    beamline.shows(edge.FRAMES_OUT, 3)
    beamline.predictions.wait_for(3, PATIENCE_S)
    assert {p.model_version for p in beamline.predictions.of_last_scan()} == {1}
    beamline.announce(2, None)
    beamline.shows(edge.MODEL, 2)


def test_a_fetch_without_an_answer_is_tried_again(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.announce(1, 0.1, fail=2)
    beamline.shows(edge.MODEL, 1)
    assert beamline.client.value(edge.REFUSED) == ""
    beamline.announce(2, 0.2, fail=100)
    beamline.until(lambda: str(beamline.client.value(edge.REFUSED)).startswith("2 "), "version 2 is refused in the end")
    assert "the registry is busy" in beamline.client.value(edge.REFUSED)
    assert beamline.client.value(edge.MODEL) == 1


def test_a_refusal_answers_the_last_announcement_of_the_model(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.announce(2, 0.2, lie=True, hold=True)
    beamline.shows(edge.MODEL_STATE, "Fetching")
    beamline.announce(2, None, lie=True)  # as a workflow IOC does that was started again
    beamline.release()
    beamline.until(lambda: str(beamline.client.value(edge.REFUSED)).startswith("2 "), "version 2 is refused")
    announced = Announcement.parse(beamline.client.get(workflow.ANNOUNCED))
    assert int(beamline.client.value(edge.REFUSED).split()[1]) == announced.serial


def test_a_model_announced_before_the_stream_process_died_goes_live_after_it(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.announce(2, 0.2, hold=True)
    beamline.shows(edge.MODEL_STATE, "Fetching")
    (child,) = _children(beamline.edge.process.pid)
    with beamline.passing(edge.STATE, "Fault"):  # until it knows, what arrives is taken for what killed the process
        os.kill(child, signal.SIGKILL)
    beamline.release()
    beamline.shows(edge.MODEL, 2)
    beamline.shows(edge.MODEL_STATE, "Idle")


def test_going_back_while_a_model_is_fetched_stays_where_it_went(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.announce(2, 0.2, hold=True)
    beamline.shows(edge.MODEL_STATE, "Fetching")
    beamline.announce(1, None)
    beamline.shows(edge.MODEL_STATE, "Idle")
    with beamline.passing(edge.MODEL, 3):
        beamline.announce(3, 0.3)
        beamline.release()  # version 2 is answered before 3 is asked for, and nobody wants it any more
    assert 2 not in beamline.client.shown(edge.MODEL)


def test_it_stops_at_once_while_a_model_is_fetched(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.announce(2, 0.2, hold=True)
    beamline.shows(edge.MODEL_STATE, "Fetching")
    assert beamline.edge.stop() == 0  # within the harness's patience, while the answer never comes
    beamline.edge = start_ioc("edge", beamline.config)


def test_a_model_on_its_way_is_refused_when_the_stream_process_dies_of_it(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(2, 0.2)  # the edge keeps it, and need not fetch it later
    beamline.go_live(1, 0.1)
    (child,) = _children(beamline.edge.process.pid)
    os.kill(child, signal.SIGSTOP)  # it builds no model from now on
    beamline.announce(2, None)
    beamline.shows(edge.MODEL_STATE, "Warming")
    os.kill(child, signal.SIGKILL)
    beamline.until(lambda: str(beamline.client.value(edge.REFUSED)).startswith("2 "), "version 2 is refused")
    beamline.shows(edge.STATE, "Idle")
    assert beamline.client.value(edge.MODEL) == 1


def test_a_model_that_is_damaged_on_disk_is_fetched_again(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.edge.kill()
    beamline.shows(edge.MODEL, None)
    (card,) = (beamline.folder / "data" / "edge" / "models").glob("1-*.json")
    card.write_text(card.read_text()[:100])
    beamline.edge = start_ioc("edge", beamline.config)
    beamline.shows(edge.MODEL, 1)


def test_frames_that_cannot_be_used_are_counted_with_the_reason_and_streaming_goes_on(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.reset()
    for number, (how, reason) in enumerate(
        (
            ({"kind": "compressed"}, "compressed by jpeg"),
            ({"kind": "colour"}, "3 dimensions"),
            ({"kind": "garbage"}, "pixels for 99 x 99"),
            ({"side_px": 17}, "does not fit"),
        ),
        start=1,
    ):
        beamline.send(1, first=number, **how)
        beamline.shows(edge.FRAMES_REJECTED, number)
        beamline.until(lambda reason=reason: reason in str(beamline.client.value(edge.MESSAGE)), reason)
    beamline.send(2, first=6, counts=0)
    beamline.shows(edge.FRAMES_EMPTY, 2)
    beamline.send(2, first=8)
    beamline.shows(edge.FRAMES_OUT, 2)
    value = beamline.client.value
    beamline.until(
        lambda: (
            value(edge.FRAMES_IN)
            == value(edge.FRAMES_OUT)
            + value(edge.FRAMES_REJECTED)
            + value(edge.FRAMES_EMPTY)
            + value(edge.FRAMES_DROPPED)
        ),
        "every frame is accounted for",
    )


def test_the_stream_process_is_started_again_with_its_model_when_it_dies(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    (child,) = _children(beamline.edge.process.pid)
    with beamline.passing(edge.MESSAGE, lambda text: "died" in text, lambda text: "is live" in text):
        os.kill(child, signal.SIGKILL)
    _connect(beamline)
    beamline.send(4)
    beamline.shows(edge.FRAMES_OUT, 4)


def test_a_killed_edge_leaves_no_process_behind(beamline: Beamline) -> None:
    (child,) = _children(beamline.edge.process.pid)
    beamline.edge.kill()
    wait_gone([child])
    beamline.edge = start_ioc("edge", beamline.config)


def _children(pid: int) -> list[int]:
    """Stream processes of an IOC; spawn's resource tracker is none."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed if b"spawn_main" in command_line(int(child))]
