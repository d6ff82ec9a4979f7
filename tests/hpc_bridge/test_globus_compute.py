"""Globus Compute through the real SDKs, against the emulator: jobs in real worker processes."""

import os
import signal
import uuid

import pytest
from globus_place import CLUSTER, POLARIS, made_by, serving
from job_pipes import Pipe

from hpc_bridge.errors import BackendUnavailable, TaskFailed
from hpc_bridge.globus.compute import GlobusCompute
from hpc_bridge.globus.functions import Functions, compute_client, source
from hpc_bridge.globus.remote_files import TAIL, ComputeFiles, HttpsFiles
from hpc_bridge.progress import ProgressReader, ProgressWriter
from hpc_bridge.site import Folder

NAMES = ("note", "wait", "fail", "not_json", "not_an_object", "kill_itself", "pid")
JOBS = {name: f"bridge_jobs:{name}" for name in NAMES} | {TAIL: "hpc_bridge.claims:tail"}
SUBMIT = "POST /v3/endpoints/.*/submit"


@pytest.fixture
def place(tmp_path):
    with serving(tmp_path) as place:
        yield place


@pytest.fixture
def made(place):
    def provider(**limits_s):
        path, claims = place.folder / "own" / "compute.sqlite", str(place.cluster / "claims")
        return GlobusCompute(place.app(), place.settings, JOBS, path, claims=claims, limits_s=limits_s)

    with made_by(provider) as make:
        yield make


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log"


def body(job, endpoint=POLARIS, **kwargs):
    return {"endpoint_id": endpoint, "tasks": [{"function_id": job, "kwargs": kwargs}]}


def test_a_job_is_done_with_json_in_and_out(place, made, log):
    waiter = made()
    action = waiter.provider.run("r1", body("note", log=str(log), tag="one", value=5))
    assert waiter.provider.run("r1", body("note")) == action
    (result,) = waiter.succeeded(action).details["results"]
    assert result["output"] == {"value": 5, "tag": "one"}
    waiter.succeeded(waiter.provider.run("r2", body("note", log=str(log), tag="two")))
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["one", "two"]


def test_a_job_is_registered_once_by_its_content(place, made):
    client = compute_client(place.app(), place.settings)
    ids = Functions(client, JOBS, place.settings).ids()
    assert set(ids) == set(JOBS)
    assert Functions(client, JOBS, place.settings).ids() == ids
    assert place.emulator.compute.registered == len(JOBS)
    changed = Functions(client, {**JOBS, "pid": "bridge_jobs:note"}, place.settings).ids()
    assert {name for name in ids if changed[name] != ids[name]} == {"pid"}
    with pytest.raises(TaskFailed, match="cannot be called 'a-b'"):
        source("a-b", "m:f")


@pytest.mark.parametrize(
    ("job", "kwargs", "text"),
    [
        ("fail", {"message": "the probe diverged"}, "the probe diverged"),
        ("fail", {}, "lacks the argument message"),
        ("not_json", {}, "not JSON"),
        ("not_an_object", {}, "where a JSON object is needed"),
    ],
)
def test_a_job_that_fails_says_why_in_one_line(made, job, kwargs, text):
    waiter = made()
    status = waiter.failed(waiter.provider.run("r1", body(job, **kwargs)), text)
    assert "\n" not in status.description


def test_a_worker_that_dies_is_told(made):
    waiter = made()
    waiter.failed(waiter.provider.run("r1", body("kill_itself")), "died")
    waiter.succeeded(waiter.provider.run("r2", body("pid")))


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (body("steal"), "'steal' is not on the allow-list"),
        (body("note", endpoint="polaris"), "the endpoint is no UUID"),
        ({"endpoint_id": POLARIS}, "exactly one task"),
        ({"endpoint_id": POLARIS, "tasks": [{"function_id": "note", "args": [1]}]}, "object named kwargs"),
    ],
)
def test_a_body_that_cannot_be_submitted_is_refused(made, asked, text):
    with pytest.raises(TaskFailed, match=text):
        made().provider.run("r1", asked)


def test_an_endpoint_and_a_function_that_the_service_refuses_are_named(place, made):
    waiter = made()
    nowhere = str(uuid.uuid4())
    waiter.failed(waiter.provider.run("r1", body("pid", endpoint=nowhere)), f"Endpoint {nowhere} could not be resolved")
    place.emulator.compute.allowed = set()
    waiter.failed(waiter.provider.run("r2", body("pid")), "not permitted on endpoint")


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "0"}},
        {"status": 503, "times": 3},
        {"lost": True},
        {"lost": True, "times": 3},
    ],
)
def test_a_service_that_stumbles_does_a_job_once_all_the_same(place, made, log, fault):
    waiter = made()
    place.web.fault(SUBMIT, **fault)
    waiter.succeeded(waiter.provider.run("r1", body("note", log=str(log), tag="once")))
    assert len(log.read_text().splitlines()) == 1


def test_a_job_whose_reply_was_lost_with_the_process_is_done_once(place, made, log):
    first = made()
    place.web.fault(SUBMIT, lost=True, times=10**6)
    action = first.provider.run("r1", body("note", log=str(log), tag="once"))
    first.until(action, lambda status: status.description)
    first.provider.stop()
    place.web.faults.clear()
    second = made()
    (result,) = second.succeeded(action).details["results"]
    assert result["output"]["tag"] == "once"
    assert len(log.read_text().splitlines()) == 1


def test_a_job_that_ran_when_the_service_was_restarted_is_lost_and_told(place, made, tmp_path):
    waiter = made()
    with Pipe(tmp_path / "said") as said, Pipe(tmp_path / "heard"):
        asked = body("wait", log=str(tmp_path / "said"), tag="x", pipe=str(tmp_path / "heard"))
        action = waiter.provider.run("r1", asked)
        said.line()
        place.restart()
        status = waiter.failed(action, "the worker of the task was lost")
    assert status.details["code"] == "WorkerLost"


def test_an_expired_token_is_renewed(place, made):
    waiter = made()
    waiter.succeeded(waiter.provider.run("r1", body("pid")))
    place.emulator.auth.expire()
    waiter.succeeded(waiter.provider.run("r2", body("pid")))


def test_a_job_over_its_time_is_given_up(made, tmp_path):
    waiter = made(wait=0.3)
    with Pipe(tmp_path / "said") as said, Pipe(tmp_path / "heard"):
        asked = body("wait", log=str(tmp_path / "said"), tag="x", pipe=str(tmp_path / "heard"))
        waiter.failed(waiter.provider.run("r1", asked), "wait did not end within 0.3 s")
        os.kill(int(said.line().split()[1]), signal.SIGKILL)


def test_a_cancelled_job_is_not_waited_for(made, tmp_path):
    waiter = made()
    with Pipe(tmp_path / "said") as said, Pipe(tmp_path / "heard"):
        asked = body("wait", log=str(tmp_path / "said"), tag="x", pipe=str(tmp_path / "heard"))
        action = waiter.provider.run("r1", asked)
        pid = int(said.line().split()[1])
        waiter.provider.cancel(action)
        waiter.failed(action, "cancelled")
        os.kill(pid, signal.SIGKILL)


def test_progress_is_read_while_a_job_writes_it(place, made):
    waiter = made()
    path = place.cluster / "progress" / "run.jsonl"
    url = place.emulator.web.url + f"https/{CLUSTER}"
    folder = Folder(CLUSTER, "/", place.cluster)
    https = HttpsFiles(place.app(), place.settings, folder, url)
    compute = ComputeFiles(waiter.provider.client, waiter.provider.functions, place.settings, POLARIS)
    readers = [ProgressReader(path, files) for files in (https, compute)]
    assert [reader.read() for reader in readers] == [[], []]
    with ProgressWriter(path) as writer:
        writer.write("epoch", epoch=1)
        assert [[line["epoch"] for line in reader.read()] for reader in readers] == [[1], [1]]
        assert [reader.read() for reader in readers] == [[], []]
        writer.write("epoch", epoch=2)
        assert [[line["epoch"] for line in reader.read()] for reader in readers] == [[2], [2]]
    place.web.fault("GET /https/", times=10**6)
    with pytest.raises(BackendUnavailable, match="HTTPS server is not available"):
        https.read(str(path))
