"""Globus Transfer through the real SDK, against the emulator."""

import uuid
from dataclasses import replace

import pytest
from globus_place import BEAMLINE, CLUSTER, made_by, serving

from hpc_bridge.errors import ConsentRequired, TaskFailed
from hpc_bridge.globus.apps import make_app
from hpc_bridge.globus.settings import GlobusSettings
from hpc_bridge.globus.transfer import GlobusTransfer
from hpc_bridge.ports import ActionState

POST = "POST /v0.10/transfer"


@pytest.fixture
def place(tmp_path):
    with serving(tmp_path) as place:
        (place.beamline / "scan.h5").write_bytes(b"frames" * 1000)
        yield place


@pytest.fixture
def made(place):
    """Providers of a test, stopped in its end."""

    def provider(settings=None):
        settings = settings or place.settings
        return GlobusTransfer(make_app(settings), settings, place.folder / "own" / "transfer.sqlite")

    with made_by(provider) as make:
        yield make


def body(label="scan 1", **changed):
    items = [{"source_path": "/scan.h5", "destination_path": "/scans/scan.h5"}]
    return {"source_endpoint": BEAMLINE, "destination_endpoint": CLUSTER, "label": label, "DATA": items, **changed}


def arrived(place):
    return (place.cluster / "scans" / "scan.h5").read_bytes() == (place.beamline / "scan.h5").read_bytes()


def tasks(place):
    return len(place.emulator.transfer._labels)


def test_files_are_copied_and_the_task_is_told(place, made):
    waiter = made()
    action = waiter.provider.run("r1", body())
    assert waiter.provider.run("r1", body()) == action
    details = waiter.succeeded(action).details
    assert arrived(place)
    assert (details["bytes_transferred"], details["bytes_total"], details["files_done"]) == (6000, 6000, 1)
    assert details["task_id"] in place.emulator.transfer._labels
    waiter.provider.release(action)
    assert tasks(place) == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 429, "headers": {"Retry-After": "0"}, "body": {"code": "TooManyRequests", "message": "slow"}},
        {"status": 500, "times": 3},
        {"status": 503, "times": 3},
        {"lost": True, "times": 1},
        {"lost": True, "times": 3},
        {"delay_s": 0.2},
    ],
)
def test_a_service_that_stumbles_copies_once_all_the_same(place, made, fault):
    waiter = made()
    place.web.fault(POST, **fault)
    waiter.succeeded(waiter.provider.run("r1", body()))
    assert arrived(place)
    assert tasks(place) == 1


def test_an_outage_is_told_and_waited_out(place, made):
    waiter = made()
    place.web.fault("/v0.10/", times=10**6)
    action = waiter.provider.run("r1", body())
    status = waiter.until(action, lambda status: status.description)
    assert status.status is ActionState.ACTIVE
    assert "Globus Transfer is not available now (503" in status.description
    place.web.faults.clear()
    waiter.succeeded(action)


def test_a_service_that_is_gone_is_told_and_found_again(place, made):
    waiter = made()
    place.emulator.web.stop()
    action = waiter.provider.run("r1", body())
    assert "cannot be reached" in waiter.until(action, lambda status: status.description).description
    place.emulator.flows.stop(), place.emulator.compute.stop(), place.emulator.transfer.local.stop()
    place.start(int(place.web.url.rpartition(":")[2].strip("/")))
    waiter.succeeded(action)


def test_an_expired_token_is_renewed(place, made):
    waiter = made()
    waiter.succeeded(waiter.provider.run("r1", body()))
    place.emulator.auth.expire()
    waiter.succeeded(waiter.provider.run("r2", body("scan 2")))


def test_a_paused_task_waits_for_a_person_and_goes_on(place, made):
    waiter = made()
    place.emulator.transfer.paused.add("scan 1")
    action = waiter.provider.run("r1", body())
    status = waiter.until(action, lambda status: status.status is ActionState.INACTIVE)
    assert "is paused: paused by an administrator" in status.description
    place.emulator.transfer.paused.clear()
    waiter.succeeded(action)


def test_a_failed_task_fails_with_the_services_reason(place, made):
    waiter = made()
    place.emulator.transfer.failing.add("scan 1")
    waiter.failed(waiter.provider.run("r1", body()), "failed: it was told to fail")
    waiter.failed(
        waiter.provider.run("r2", body("x", DATA=[{"source_path": "/no.h5", "destination_path": "/n.h5"}])), "no.h5"
    )


def test_an_endpoint_that_does_not_exist_is_named(place, made):
    waiter = made()
    nowhere = str(uuid.uuid4())
    waiter.failed(waiter.provider.run("r1", body(destination_endpoint=nowhere)), f"No such endpoint '{nowhere}'")


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"source_endpoint": "beamline"}, "the transfer's source_endpoint is no UUID: 'beamline'"),
        ({"DATA": []}, "names no files"),
        ({"DATA": [{"source_path": "/a"}]}, "needs source_path and destination_path"),
        ({"speed": 1}, "unknown key speed"),
    ],
)
def test_a_body_that_cannot_be_submitted_is_refused(made, changed, text):
    with pytest.raises(TaskFailed, match=text):
        made().provider.run("r1", body(**changed))


def test_a_consent_that_a_client_app_can_give_itself_is_given(place, made):
    place.emulator.transfer.needs_consent.add(BEAMLINE)
    waiter = made()
    waiter.succeeded(waiter.provider.run("r1", body()))


def test_a_consent_that_is_missing_waits_with_the_address_to_grant_it(place, made):
    place.emulator.transfer.needs_consent.add(BEAMLINE)
    place.emulator.auth.withheld.add(f"https://auth.globus.org/scopes/{BEAMLINE}/data_access")
    waiter = made()
    action = waiter.provider.run("r1", body())
    status = waiter.until(action, lambda status: status.status is ActionState.INACTIVE)
    assert "needs a consent that is missing" in status.description
    assert status.details["consent_url"].startswith("https://")
    place.emulator.auth.withheld.clear()
    waiter.succeeded(action)


def test_a_revoked_secret_is_told_and_never_shown(place, made):
    place.emulator.auth.secret = "another"
    waiter = made()
    status = waiter.failed(waiter.provider.run("r1", body()), "its secret is wrong, expired or revoked (401)")
    assert "secret\n" not in status.description


def test_a_cancelled_copy_is_cancelled_at_the_service(place, made):
    waiter = made()
    place.emulator.transfer.paused.add("scan 1")
    action = waiter.provider.run("r1", body())
    waiter.until(action, lambda status: status.status is ActionState.INACTIVE)
    waiter.provider.cancel(action)
    waiter.failed(action, "cancelled")
    assert place.web.count("POST /v0.10/task/.*/cancel") == 1


@pytest.mark.parametrize("lost", ["POST /v0.10/transfer", "GET /v0.10/submission_id"])
def test_a_copy_that_was_open_goes_on_in_the_next_process(place, made, lost):
    """The first process ends before it has heard the service's answer."""
    first = made()
    place.web.fault(lost, lost=True, times=2)
    place.web.fault("/v0.10/", times=10**6)
    action = first.provider.run("r1", body())
    first.until(action, lambda status: status.description)
    first.provider.stop()
    place.web.faults.clear()
    second = made()
    second.succeeded(action)
    assert tasks(place) == 1


@pytest.mark.parametrize(
    ("content", "mode", "text"), [("secret", 0o644, "chmod 0400"), ("", 0o400, "is empty"), (None, 0, "cannot be read")]
)
def test_a_secret_that_is_no_secret_is_refused(tmp_path, content, mode, text):
    path = tmp_path / "secret"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(ConsentRequired, match=text):
        make_app(GlobusSettings(str(uuid.uuid4()), tmp_path, path))


def test_systemd_hands_over_the_secret(tmp_path, monkeypatch):
    (tmp_path / "globus-client-secret").write_text("from systemd")
    (tmp_path / "globus-client-secret").chmod(0o400)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert GlobusSettings("id", tmp_path).secret == "from systemd"
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(ConsentRequired, match=r"globus\.secret_file"):
        _ = GlobusSettings("id", tmp_path).secret


def test_a_person_who_has_not_logged_in_is_asked_to(place, made):
    waiter = made(replace(place.settings, as_person=True))
    status = waiter.until(waiter.provider.run("r1", body()), lambda status: status.status is ActionState.INACTIVE)
    assert "phaseline globus login" in status.description
    assert "oauth2/authorize" in status.details["consent_url"]
