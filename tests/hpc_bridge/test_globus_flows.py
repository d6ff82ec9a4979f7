"""Globus Flows through the real SDK, against the emulator: whole flows that really copy."""

import uuid

import pytest
from globus_place import BEAMLINE, CLUSTER, made_by, serving

from hpc_bridge.definition import FlowDefinition
from hpc_bridge.errors import TaskFailed
from hpc_bridge.globus import flows as module
from hpc_bridge.globus.flows import Deployments, GlobusFlows
from hpc_bridge.local_transfer import TRANSFER_URL
from hpc_bridge.ports import ActionState

RUN = "POST /flows/.*/run"


def copying(comment="copy"):
    parameters = {
        "source_endpoint": BEAMLINE,
        "destination_endpoint": CLUSTER,
        "DATA": [{"source_path.$": "$.file", "destination_path.$": "$.file"}],
    }
    state = {"Type": "Action", "ActionUrl": TRANSFER_URL, "Parameters": parameters, "Comment": comment}
    last = {"WaitTime": 60, "ResultPath": "$.Copy", "End": True}
    return FlowDefinition.from_json({"StartAt": "Copy", "States": {"Copy": state | last}})


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SETTLE_S", 0.5)
    monkeypatch.setattr(module, "RESUME_S", 0.2)
    with serving(tmp_path) as place:
        (place.beamline / "scan.h5").write_bytes(b"frames" * 1000)
        yield place


@pytest.fixture
def made(place):
    path = place.folder / "own" / "flows.sqlite"
    with made_by(lambda: GlobusFlows(place.app(), place.settings, path)) as make:
        yield make


@pytest.fixture
def flow_id(place):
    return Deployments(place.app(), place.settings).deploy("copy", copying())


def body(flow_id, file="/scan.h5"):
    return {"flow_id": flow_id, "body": {"file": file}, "label": "scan 1"}


def test_a_flow_is_deployed_once_and_updated_when_it_changes(place, flow_id):
    deployments = Deployments(place.app(), place.settings)
    assert deployments.deploy("copy", copying()) == flow_id == deployments.flow_id("copy")
    assert place.web.count("POST /flows$") == 1
    assert place.web.count("PUT /flows/") == 0
    assert deployments.deploy("copy", copying("another")) == flow_id
    assert place.web.count("PUT /flows/") == 1
    with pytest.raises(TaskFailed, match="phaseline flow deploy other"):
        deployments.flow_id("other")


def test_a_run_succeeds_with_its_output(place, made, flow_id):
    waiter = made()
    action = waiter.provider.run("r1", body(flow_id))
    assert waiter.provider.run("r1", body(flow_id)) == action
    details = waiter.succeeded(action).details
    assert details["output"]["Copy"]["status"] == "SUCCEEDED"
    assert (place.cluster / "scan.h5").stat().st_size == 6000
    (run,) = place.emulator.flows.runs.values()
    assert run["tags"] == [action]
    assert run["label"].startswith("scan 1 ")


@pytest.mark.parametrize(
    "fault", [{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 500, "times": 2}, {"lost": True, "times": 2}]
)
def test_a_service_that_stumbles_begins_one_run_all_the_same(place, made, flow_id, fault):
    waiter = made()
    place.web.fault(RUN, **fault)
    waiter.succeeded(waiter.provider.run("r1", body(flow_id)))
    assert len(place.emulator.flows.runs) == 1


def test_a_run_whose_reply_was_lost_with_the_process_is_found_by_the_next(place, made, flow_id):
    first = made()
    place.web.fault(RUN, lost=True)
    place.web.fault("GET /runs", times=10**6)
    action = first.provider.run("r1", body(flow_id))
    first.until(action, lambda status: status.description)
    first.provider.stop()
    place.web.faults.clear()
    second = made()
    second.succeeded(action)
    assert len(place.emulator.flows.runs) == 1


def test_a_run_that_fails_says_in_which_state_and_why(place, made, flow_id):
    waiter = made()
    waiter.failed(waiter.provider.run("r1", body(flow_id, "/no.h5")), "Copy: ")
    waiter.failed(waiter.provider.run("r2", body(flow_id, "/no.h5")), "no.h5 is missing")


def test_a_run_that_waits_for_a_consent_tells_where_to_grant_it_and_goes_on(place, made, flow_id):
    waiter = made()
    scope = f"https://auth.globus.org/scopes/{CLUSTER}/data_access"
    place.emulator.flows.paused = {
        "code": "ConsentRequired",
        "description": "a consent is missing",
        "required_scope": scope,
    }
    action = waiter.provider.run("r1", body(flow_id))
    status = waiter.until(action, lambda status: status.status is ActionState.INACTIVE)
    assert "waits: a consent is missing" in status.description
    assert status.details["consent_url"].startswith("https://")
    waiter.until(action, lambda status: place.web.count("POST /runs/.*/resume"))
    place.emulator.flows.paused = None
    waiter.succeeded(action)


def test_a_run_at_the_service_is_cancelled(place, made):
    waiting = FlowDefinition.from_json({"StartAt": "W", "States": {"W": {"Type": "Wait", "Seconds": 600, "End": True}}})
    flow_id = Deployments(place.app(), place.settings).deploy("wait", waiting)
    waiter = made()
    action = waiter.provider.run("r1", body(flow_id))
    status = waiter.until(action, lambda status: status.details.get("state_name"))
    assert status.details["state_name"] == "W"
    waiter.provider.cancel(action)
    waiter.failed(action, "cancelled")
    (row,) = place.emulator.flows.runner.snapshot()
    assert row.status == "CANCELLED"


def test_a_flow_that_does_not_exist_is_named(made, place):
    nowhere = str(uuid.uuid4())
    waiter = made()
    waiter.failed(waiter.provider.run("r1", body(nowhere)), "Globus Flows refuses (404")
    with pytest.raises(TaskFailed, match="the flow_id is no UUID"):
        waiter.provider.run("r2", body("nonsense"))
