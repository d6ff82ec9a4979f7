"""How a model proves itself beside the running one, in a process of its own."""

import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from harness import wait_gone
from made_models import SIDE_PX, card
from test_edge_pipeline import OPTIONS, kept

from iocs import edge_trial
from iocs.config import EdgeSection
from iocs.edge_batches import Model
from iocs.edge_messages import LoadModel
from iocs.edge_models import KeptModel
from iocs.edge_trial import LOWEST_PRIORITY, Candidate, Trials
from iocs.edge_warmer import Warmer, built

PATIENCE_S = 300.0
FRAMES = [np.full((SIDE_PX, SIDE_PX), 9, np.uint16)]


@pytest.fixture
def warmer(tmp_path: Path) -> Iterator[Warmer]:
    made = Warmer(EdgeSection(engine="onnxruntime", threads=1), tmp_path / "engines")
    yield made
    made.close()


@pytest.fixture
def trials() -> Iterator[Trials]:
    made = Trials()
    yield made
    made.end()


def wait(warmer: Warmer) -> tuple[KeptModel, Model | str]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        done = warmer.ready()
        if done is not None:
            return done
        time.sleep(0.01)
    raise AssertionError("the warmer does not come to an end")


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"not {what}"
        time.sleep(0.01)


def hanging(folder: Path) -> KeptModel:
    """A model whose card never comes: reading it waits for ever."""
    made = kept(folder)
    made.card.unlink()
    os.mkfifo(made.card)
    return made


def test_a_model_is_handed_back_ready_or_with_the_reason(warmer: Warmer, tmp_path: Path) -> None:
    wanted = kept(tmp_path, 3, 0.1)
    warmer.warm(LoadModel(wanted, proven=False), 4, FRAMES)
    found, made = wait(warmer)
    assert found == wanted
    assert isinstance(made, Model)
    made.close()
    wanted.onnx.write_bytes(b"no network")
    for proven in (False, True):
        warmer.warm(LoadModel(wanted, proven=proven), 4, FRAMES)
        _, reason = wait(warmer)
        assert isinstance(reason, str)
        assert "digest" in reason


def test_a_model_is_built_as_its_trial_chose_and_not_tried_again(tmp_path: Path) -> None:
    candidates: list[Candidate] = []

    def make(candidate: Candidate) -> Model:
        candidates.append(candidate)
        return built(candidate)

    cache = tmp_path / "engines"
    made = Warmer(EdgeSection(engine="onnxruntime", threads=1), cache, make)
    made.warm(LoadModel(kept(tmp_path), proven=False), 4, FRAMES)
    _, result = wait(made)
    made.close()
    assert isinstance(result, Model)
    result.close()
    assert [candidate.recent for candidate in candidates] == [()]
    assert len(list(cache.glob("*.proof"))) == 1


def test_a_model_that_was_closed_is_held_by_nobody(warmer: Warmer, tmp_path: Path) -> None:
    warmer.warm(LoadModel(kept(tmp_path), proven=True), 4, FRAMES)
    _, made = wait(warmer)
    assert isinstance(made, Model)
    engine = weakref.ref(made.engine)
    warmer.retire(made)
    del made
    until(lambda: engine() is None, "the engine is freed")


def test_no_failure_whatever_takes_the_next_model_its_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Unclosable(Model):
        def close(self) -> None:
            raise RuntimeError("the driver is gone")

    def make(candidate: Candidate) -> Model:
        if candidate.kept.announcement.version == 1:
            raise KeyError("no such layer")
        made = built(candidate)
        return Unclosable(made.engine, made.card)

    warmer = Warmer(EdgeSection(engine="onnxruntime", threads=1), tmp_path / "engines", make)
    for version in (1, 2, 3):
        warmer.warm(LoadModel(kept(tmp_path, version), proven=True), 4, FRAMES)
        _, result = wait(warmer)
        if version == 1:
            assert result == "KeyError: 'no such layer'"
        else:
            assert isinstance(result, Model)
            warmer.retire(result)
    until(lambda: "model 3 does not close" in caplog.text, "told of")
    assert "the driver is gone" in caplog.text
    warmer.close()


def test_no_failure_whatever_takes_the_next_model_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(_: Candidate) -> None:
        raise ZeroDivisionError("no threads")

    monkeypatch.setattr(edge_trial, "build", fail)
    assert edge_trial._verdict(Candidate(kept(tmp_path), OPTIONS, FRAMES)) == "ZeroDivisionError: no threads"


def test_the_edge_does_not_wait_for_a_build_that_nobody_can_call_off(tmp_path: Path) -> None:
    begun, ending = threading.Event(), threading.Event()

    def make(candidate: Candidate) -> Model:
        begun.set()
        assert ending.wait(PATIENCE_S)
        return built(candidate)

    made = Warmer(EdgeSection(engine="onnxruntime", threads=1), tmp_path / "engines", make)
    made.warm(LoadModel(kept(tmp_path), proven=True), 4, FRAMES)
    assert begun.wait(PATIENCE_S)
    closed = threading.Thread(target=made.close)
    closed.start()
    closed.join(PATIENCE_S / 2)
    assert not closed.is_alive()
    ending.set()


def test_a_model_that_predicts_nan_is_refused(warmer: Warmer, tmp_path: Path) -> None:
    warmer.warm(LoadModel(kept(tmp_path, 1, float("nan")), proven=False), 4, FRAMES)
    _, reason = wait(warmer)
    assert isinstance(reason, str)
    assert reason


def test_a_trial_that_takes_too_long_is_ended_and_the_next_model_is_tried(trials: Trials, tmp_path: Path) -> None:
    slow = trials.process_id
    assert trials.reason_against(Candidate(hanging(tmp_path), OPTIONS, FRAMES), 0.5) == "it was not built within 0.5 s"
    wait_gone([slow])
    assert trials.reason_against(Candidate(kept(tmp_path, 2), OPTIONS, FRAMES), PATIENCE_S) == ""


def test_a_model_that_takes_its_process_along_is_refused_and_the_next_is_tried(trials: Trials, tmp_path: Path) -> None:
    reasons: list[str] = []
    victim = trials.process_id
    candidate = Candidate(hanging(tmp_path), OPTIONS, FRAMES)
    asking = threading.Thread(target=lambda: reasons.append(trials.reason_against(candidate, PATIENCE_S)))
    asking.start()
    with candidate.kept.card.open("w"):  # opened by the process that reads it: it is at work now
        os.kill(victim, signal.SIGSEGV)
        asking.join(PATIENCE_S)
    assert reasons == ["the process that tried it died (signal 11)"]
    assert trials.reason_against(Candidate(kept(tmp_path, 2), OPTIONS, FRAMES), PATIENCE_S) == ""


@pytest.mark.parametrize("seen", [True, False])
def test_a_process_that_was_killed_while_idle_condemns_no_model(
    trials: Trials, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: bool
) -> None:
    os.kill(trials.process_id, signal.SIGKILL)
    trials._process.join()
    if not seen:
        monkeypatch.setattr(trials._process, "is_alive", lambda: True)
    assert trials.reason_against(Candidate(kept(tmp_path, 2), OPTIONS, FRAMES), PATIENCE_S) == ""


def test_dark_frames_say_nothing_about_a_model() -> None:
    model_card = card(1, b"")
    dark, saturated = (np.full((SIDE_PX, SIDE_PX), counts, np.uint16) for counts in (0, 65535))
    other = np.ones((SIDE_PX + 1, SIDE_PX), np.uint16)
    assert edge_trial._prepared([dark, saturated, other], model_card) is None
    found = edge_trial._prepared([dark, *FRAMES, saturated], model_card)
    assert found is not None
    assert found.tolist() == np.full((1, 1, SIDE_PX, SIDE_PX), 9.0).tolist()


def test_a_trial_has_the_lowest_priority(trials: Trials, tmp_path: Path) -> None:
    assert trials.reason_against(Candidate(kept(tmp_path), OPTIONS, FRAMES), PATIENCE_S) == ""
    assert os.getpriority(os.PRIO_PROCESS, trials.process_id) == LOWEST_PRIORITY


def test_the_edge_stops_while_a_model_is_tried(tmp_path: Path) -> None:
    made = Warmer(EdgeSection(engine="onnxruntime", threads=1), tmp_path / "engines")
    made.warm(LoadModel(hanging(tmp_path), proven=False), 4, FRAMES)
    closed = threading.Thread(target=made.close)
    closed.start()
    closed.join(PATIENCE_S)
    assert not closed.is_alive()
