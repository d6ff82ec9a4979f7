import os
import queue
import threading

import pytest
from job_pipes import DEADLINE_S, Pipe, wait_for_death

from hpc_bridge.errors import TaskFailed
from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.local_compute import LocalCompute
from hpc_bridge.ports import ActionState
from hpc_bridge.workers import Task, WorkerSetup

NAMES = ["note", "wait", "pid", "kill_itself", "not_json", "not_a_number", "not_an_object", "fail", "fail_unheard"]
JOBS = {name: f"bridge_jobs:{name}" for name in [*NAMES, "leave"]} | {"absent": "bridge_jobs:nothing"}


class Place:
    def __init__(self, folder):
        self.folder = folder
        self.changed = threading.Condition()
        self.provider = None
        self.pipes = []

    def open(self, **limits_s):
        endpoints = {"one": WorkerSetup(warm=(), niceness=3, threads=1), "two": WorkerSetup(workers=2, warm=())}
        self.provider = LocalCompute(JOBS, endpoints, self.folder / "compute.sqlite", limits_s=limits_s)
        self.provider.notify(self.note)
        return self.provider

    def note(self):
        with self.changed:
            self.changed.notify_all()

    def run(self, request, *tasks, endpoint="one"):
        calls = [{"function_id": name, "kwargs": kwargs} for name, kwargs in tasks]
        return self.provider.run(request, {"endpoint_id": endpoint, "tasks": calls})

    def end(self, action):
        with self.changed:
            assert self.changed.wait_for(lambda: self.provider.status(action).status.ended, DEADLINE_S)
        return self.provider.status(action)

    def result(self, request, name, **kwargs):
        return self.end(self.run(request, (name, kwargs)))

    def begin_blocked(self, request, endpoint="one"):
        """Queue a job that says who it is and then waits; return its action and the two pipes."""
        said, heard = (Pipe(self.folder / f"{request}.{name}") for name in ("said", "heard"))
        self.pipes += [said, heard]
        kwargs = {"log": said.path, "tag": request, "pipe": heard.path}
        return self.run(request, ("wait", kwargs), endpoint=endpoint), said, heard

    def blocked(self, request, endpoint="one"):
        """Begin a job that waits; return its action, its process and the pipe that lets it go on once it runs."""
        action, said, heard = self.begin_blocked(request, endpoint)
        return action, int(said.line().split()[1]), heard

    def close(self):
        self.provider.stop()
        for pipe in self.pipes:
            pipe.close()


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.open()
    yield place
    place.close()


def test_a_job_returns_its_output_from_a_prepared_worker(place):
    status = place.result("r1", "pid")
    assert status.status is ActionState.SUCCEEDED
    output = status.details["results"][0]["output"]
    assert output["pid"] != os.getpid()
    assert output["niceness"] == os.nice(0) + 3
    assert output["threads"] == "1"


def test_tasks_of_one_action_keep_their_order_and_fail_alone(place, tmp_path):
    log = str(tmp_path / "log")
    tasks = [("note", {"log": log, "tag": str(value), "value": value}) for value in range(4)]
    tasks[2] = ("fail", {"message": "bad luck"})
    status = place.end(place.run("r1", *tasks, endpoint="two"))
    assert status.status is ActionState.FAILED
    results = status.details["results"]
    assert [result.get("output", {}).get("value") for result in results] == [0, 1, None, 3]
    assert results[2]["exception"] == "bridge_jobs:fail failed: ValueError: bad luck"


def test_the_same_request_begins_once(place, tmp_path):
    kwargs = {"log": str(tmp_path / "log"), "tag": "x"}
    action = place.run("r1", ("note", kwargs))
    assert place.run("r1", ("note", kwargs)) == action
    place.end(action)
    assert place.run("r1", ("note", kwargs)) == action
    place.result("r2", "note", **kwargs)
    assert len((tmp_path / "log").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("name", "kwargs", "code", "text"),
    [
        ("kill_itself", {}, "WorkerLost", "bridge_jobs:kill_itself died"),
        ("not_json", {}, "TaskFailed", "what is not JSON"),
        ("not_a_number", {}, "TaskFailed", "what is not JSON"),
        ("not_an_object", {}, "TaskFailed", "returned list where a JSON object is needed"),
        ("leave", {}, "TaskFailed", "SystemExit: 3"),
        ("fail_unheard", {}, "TaskFailed", "ValueError: bad luck"),
        ("fail", {}, "TaskFailed", "lacks the argument message"),
        ("pid", {"colour": 1}, "TaskFailed", "does not know the argument colour"),
        ("absent", {}, "TaskFailed", "no attribute 'nothing'"),
    ],
)
def test_a_bad_job_fails_with_a_clear_line_and_the_next_one_runs(place, name, kwargs, code, text):
    status = place.result("r1", name, **kwargs)
    assert (status.status, status.details["code"]) == (ActionState.FAILED, code)
    assert text in status.description
    assert status.interrupted == (code == "WorkerLost")
    assert place.result("r2", "pid").status is ActionState.SUCCEEDED


def test_a_job_over_its_limit_is_killed(place):
    place.provider.stop()
    place.open(wait=0.5)
    pid = place.result("r1", "pid").details["results"][0]["output"]["pid"]
    action, _, _ = place.begin_blocked("r2")
    status = place.end(action)
    assert status.details["code"] == "TaskTimeout"
    assert "did not end within 0.5 s" in status.description
    wait_for_death(pid)


def test_a_call_that_goes_wrong_in_any_way_ends_its_task_and_no_other(place, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Task, "call", lambda task, pool: 1 / 0)
        status = place.result("r1", "pid")
    assert (status.status, status.details["code"]) == (ActionState.FAILED, "TaskFailed")
    assert "bridge_jobs:pid could not be run: ZeroDivisionError" in status.description
    assert place.result("r2", "pid").status is ActionState.SUCCEEDED


def test_cancel_kills_the_running_and_drops_the_waiting(place, tmp_path):
    running, pid, _ = place.blocked("r1")
    waiting = place.run("r2", ("note", {"log": str(tmp_path / "log"), "tag": "x"}))
    place.provider.cancel(waiting)
    place.provider.cancel(running)
    for action in (running, waiting):
        assert place.provider.status(action).details["code"] == "Cancelled"
    wait_for_death(pid)
    assert place.result("r3", "pid").status is ActionState.SUCCEEDED
    assert not (tmp_path / "log").exists()


def test_a_killed_worker_interrupts_only_its_own_task(place):
    first, pid, _ = place.blocked("r1", endpoint="two")
    second, _, heard = place.blocked("r2", endpoint="two")
    os.kill(pid, 9)
    assert place.end(first).interrupted
    assert not place.provider.status(second).status.ended
    heard.send("go on")
    assert place.end(second).details["results"][0]["output"] == {"heard": "go on"}


def test_an_idle_worker_that_is_killed_is_replaced(place):
    pid = place.result("r1", "pid").details["results"][0]["output"]["pid"]
    os.kill(pid, 9)
    wait_for_death(pid)
    states = [place.result(f"r{number}", "pid").status for number in range(2, 4)]
    assert states[-1] is ActionState.SUCCEEDED


def test_stop_leaves_running_jobs_to_the_next_attempt(place):
    action, pid, _ = place.blocked("r1")
    place.provider.stop()
    wait_for_death(pid)
    place.open()
    assert place.provider.status(action).interrupted


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"endpoint_id": "moon", "tasks": [{"function_id": "pid"}]}, "no endpoint 'moon' .known: one, two"),
        ({"endpoint_id": "one", "tasks": []}, "names no tasks"),
        ({"endpoint_id": "one", "tasks": [{"function_id": "os.system"}]}, "'os.system' is not on the allow-list"),
        ({"endpoint_id": "one", "tasks": [{"function_id": "pid", "args": [1]}]}, "named kwargs"),
    ],
)
def test_a_body_that_cannot_be_run_is_refused(place, body, text):
    with pytest.raises(TaskFailed, match=text):
        place.provider.run("r1", body)


@pytest.fixture
def function(tmp_path):
    ended = queue.Queue()
    providers = []

    def make(call):
        provider = FunctionProvider({"call": call}, tmp_path / "function.sqlite")
        provider.notify(lambda: ended.put(None))
        providers.append(provider)
        return provider

    make.wait = lambda: ended.get(timeout=DEADLINE_S)
    yield make
    providers[-1].stop()


def calling(function_id="call", **kwargs):
    return {"endpoint_id": "here", "tasks": [{"function_id": function_id, "kwargs": kwargs}]}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"endpoint_id": "here"}, "exactly one task"),
        ({"endpoint_id": "here", "tasks": [{"function_id": "call", "kwargs": [1]}]}, "object named kwargs"),
        (calling("another"), r"no function 'another' here \(known: call\)"),
    ],
)
def test_a_function_that_is_not_there_is_refused(function, body, text):
    with pytest.raises(TaskFailed, match=text):
        function(lambda body: {}).run("r1", body)


def test_a_function_is_an_action(function):
    calls = []
    provider = function(lambda body: calls.append(body) or {"version": len(calls)})
    action = provider.run("r1", calling(x=1))
    function.wait()
    assert provider.run("r1", calling(x=1)) == action
    (result,) = provider.status(action).details["results"]
    assert result["output"] == {"version": 1}
    assert calls == [{"x": 1}]


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda body: 1 / 0, "ZeroDivisionError"),
        (lambda body: {"x": object()}, "not JSON"),
        (lambda body: (_ for _ in ()).throw(TaskFailed("the card is wrong")), "the card is wrong"),
    ],
)
def test_a_function_that_fails_says_why(function, call, text):
    provider = function(call)
    action = provider.run("r1", calling())
    function.wait()
    status = provider.status(action)
    assert status.status is ActionState.FAILED
    assert text in status.description


def test_a_function_interrupted_by_the_end_of_the_process_is_lost(function):
    provider = function(lambda body: {})
    action, _ = provider._store.begin("r1", {})
    provider.stop()
    status = function(lambda body: {}).status(action)
    assert status.interrupted
    assert status.blameless


def test_an_endpoint_that_rests_has_no_process_until_there_is_a_task(place):
    first = place.result("first", "pid").details["results"][0]["output"]["pid"]
    place.provider.rest("one", True)
    wait_for_death(first)
    second = place.result("second", "pid").details["results"][0]["output"]["pid"]
    wait_for_death(second)
    place.provider.rest("one", False)
    third = place.result("third", "pid").details["results"][0]["output"]["pid"]
    assert place.result("fourth", "pid").details["results"][0]["output"]["pid"] == third
