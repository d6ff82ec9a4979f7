"""Requests to the workflow IOC through a folder."""

import json
import threading

import pytest

from hpc_bridge.errors import TaskFailed, TaskTimeout
from hpc_bridge.mailbox import Mailbox, register

PATIENCE_S = 300.0


def answer_next(mailbox, **answer):
    """Answer the next letter, in a thread, and give back what it said."""
    found = []

    def work():
        while not (letters := mailbox.waiting()):
            pass
        found.append(letters[0])
        mailbox.answer(letters[0].name, **answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, found


def test_a_request_is_answered_with_what_came_of_it(tmp_path):
    mailbox = Mailbox(tmp_path / "inbox")
    thread, letters = answer_next(mailbox, output={"version": 3})
    made = {"onnx": "/m.onnx", "card": "/m.json", "checkpoint": "/m.pt"}
    assert register(request="round-1", inbox=str(tmp_path / "inbox"), timeout_s=PATIENCE_S, **made) == {"version": 3}
    thread.join(PATIENCE_S)
    assert letters[0].body == made
    assert mailbox.waiting() == []


def test_the_same_request_again_finds_its_answer(tmp_path):
    mailbox = Mailbox(tmp_path)
    mailbox.ask("round-1", {"onnx": "a"})
    mailbox.answer("round-1", output={"version": 1})
    assert register(request="round-1", inbox=str(tmp_path), timeout_s=0.0, onnx="a") == {"version": 1}


def test_a_refusal_fails_the_job_and_is_asked_again(tmp_path):
    mailbox = Mailbox(tmp_path)
    thread, _ = answer_next(mailbox, error="the card is damaged")
    with pytest.raises(TaskFailed, match="the card is damaged"):
        register(request="round-1", inbox=str(tmp_path), timeout_s=PATIENCE_S)
    thread.join(PATIENCE_S)
    with pytest.raises(TaskTimeout, match="has not answered round-1"):
        register(request="round-1", inbox=str(tmp_path), timeout_s=0.0)
    assert [letter.name for letter in mailbox.waiting()] == ["round-1"]


@pytest.mark.parametrize("name", ["", "../round", "a/b", ".hidden"])
def test_a_name_that_would_leave_the_folder_is_refused(tmp_path, name):
    with pytest.raises(TaskFailed, match="no name of a request"):
        Mailbox(tmp_path).ask(name, {})


def test_a_spoiled_letter_keeps_nobody_from_the_others(tmp_path):
    mailbox = Mailbox(tmp_path)
    (tmp_path / "a.request.json").write_text("{")
    (tmp_path / "b.request.json").write_text(json.dumps([1]))
    mailbox.ask("c", {"onnx": "x"})
    assert [letter.name for letter in mailbox.waiting()] == ["c"]
