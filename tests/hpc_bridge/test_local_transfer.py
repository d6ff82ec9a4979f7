import hashlib
import os
import threading

import pytest

from hpc_bridge import local_transfer
from hpc_bridge.copying import CHUNK_BYTES, confined, copy
from hpc_bridge.errors import BackendUnavailable, BridgeError, Cancelled, TaskFailed
from hpc_bridge.local_transfer import LocalTransfer
from hpc_bridge.ports import ActionState

DEADLINE_S = 300.0
CONTENT = os.urandom(64) * (CHUNK_BYTES * 5 // 128)  # two and a half chunks


class Place:
    """Two roots and a transfer between them that says when an action has ended."""

    def __init__(self, folder):
        self.source, self.target = folder / "beamline", folder / "compute"
        self.source.mkdir()
        self.target.mkdir()
        self.path = folder / "transfer.sqlite"
        self.changed = threading.Condition()
        self.provider = None

    def open(self):
        roots = {"beamline": self.source, "compute": self.target}
        self.provider = LocalTransfer(roots, self.path)
        self.provider.notify(self.note)
        return self.provider

    def note(self):
        with self.changed:
            self.changed.notify_all()

    def body(self, *names, destination="scans/{}"):
        data = [{"source_path": f"/{name}", "destination_path": destination.format(name)} for name in names]
        return {"source_endpoint": "beamline", "destination_endpoint": "compute", "DATA": data}

    def end(self, action_id):
        with self.changed:  # it may have ended before the provider knew whom to tell
            assert self.changed.wait_for(lambda: self.provider.status(action_id).status.ended, DEADLINE_S)
        return self.provider.status(action_id)


@pytest.fixture
def place(tmp_path):
    place = Place(tmp_path)
    place.open()
    yield place
    place.provider.stop()


def plain_copy(source, target, **options):
    return copy(source, target, **{"report": lambda done: None, "cancelled": lambda: False, **options})


def test_files_arrive_whole_with_their_digests(place):
    (place.source / "a.h5").write_bytes(CONTENT)
    (place.source / "b.h5").write_bytes(b"small")
    action = place.provider.run("r1", place.body("a.h5", "b.h5"))
    status = place.end(action)
    assert status.status is ActionState.SUCCEEDED
    assert (place.target / "scans/a.h5").read_bytes() == CONTENT
    details = status.details
    assert details["sha256"] == [hashlib.sha256(data).hexdigest() for data in (CONTENT, b"small")]
    assert details["bytes_transferred"] == details["bytes_total"] == len(CONTENT) + 5
    assert (details["files_done"], details["files_total"]) == (2, 2)
    assert details["rate_bytes_per_s"] > 0
    assert [path.name for path in sorted((place.target / "scans").iterdir())] == ["a.h5", "b.h5"]


def test_the_same_request_copies_once_and_is_known_after_a_restart(place):
    (place.source / "a").write_bytes(b"first")
    action = place.provider.run("r1", place.body("a"))
    place.end(action)
    (place.source / "a").write_bytes(b"second")
    assert place.provider.run("r1", place.body("a")) == action
    place.provider.stop()
    provider = place.open()
    assert provider.run("r1", place.body("a")) == action
    assert provider.status(action).status is ActionState.SUCCEEDED
    assert (place.target / "scans/a").read_bytes() == b"first"
    provider.release(action)
    with pytest.raises(BridgeError, match="no action"):
        provider.status(action)


def test_a_transfer_that_was_running_goes_on_after_a_restart(place):
    (place.source / "a").write_bytes(CONTENT)
    place.provider.stop()
    store = place.provider._store.__class__(place.path)
    action, _ = store.begin("r1", place.body("a"))
    store.close()
    place.open()
    assert place.end(action).status is ActionState.SUCCEEDED
    assert (place.target / "scans/a").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [0, 10, CHUNK_BYTES, CHUNK_BYTES + 10, len(CONTENT)])
def test_a_part_file_is_taken_up(tmp_path, kept):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)
    (tmp_path / "b.part").write_bytes(CONTENT[:kept])
    assert plain_copy(source, target) == hashlib.sha256(CONTENT).hexdigest()
    assert target.read_bytes() == CONTENT
    assert not (tmp_path / "b.part").exists()


def test_what_a_part_file_holds_already_is_not_written_again(tmp_path):
    source, part = tmp_path / "a", tmp_path / "b.part"
    source.write_bytes(CONTENT)
    plain_copy(source, tmp_path / "c")
    part.write_bytes(CONTENT)
    before = part.stat().st_mtime_ns, part.stat().st_ino
    plain_copy(source, tmp_path / "b")
    found = (tmp_path / "b").stat()
    assert (found.st_mtime_ns, found.st_ino) == before


@pytest.mark.parametrize("wrong", [b"x" * 100, b"x" * (len(CONTENT) + 100), CONTENT[:CHUNK_BYTES] + b"x" * 100])
def test_a_corrupted_part_file_is_written_anew(tmp_path, wrong):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)
    (tmp_path / "b.part").write_bytes(wrong)
    plain_copy(source, target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("change", ["append", "replace"])
def test_a_source_that_changes_meanwhile_is_refused(tmp_path, change):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)

    def report(done):
        if change == "append":
            with source.open("ab") as file:
                file.write(b"more")
        else:
            (tmp_path / "new").write_bytes(CONTENT)
            (tmp_path / "new").replace(source)

    with pytest.raises(TaskFailed, match="changed while it was copied"):
        plain_copy(source, target, report=report)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_cancel_stops_at_the_next_chunk_and_keeps_the_part(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)
    seen = []
    with pytest.raises(Cancelled):
        plain_copy(source, target, report=seen.append, cancelled=lambda: bool(seen))
    assert seen == [CHUNK_BYTES]
    assert (tmp_path / "b.part").read_bytes() == CONTENT[:CHUNK_BYTES]


def test_a_second_writer_of_the_same_file_is_refused(tmp_path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.write_bytes(CONTENT)

    def report(done):
        with pytest.raises(TaskFailed, match="being written by another transfer"):
            plain_copy(source, target)

    plain_copy(source, target, report=report)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize(
    "path", ["../outside", "scans/../../outside", "/../outside", "", "/", "a\0b", "link/file", "out"]
)
def test_paths_stay_inside_their_root(tmp_path, path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "outside").write_text("secret")
    (root / "link").symlink_to(tmp_path)
    (root / "out").symlink_to(tmp_path / "outside")
    with pytest.raises(TaskFailed, match="root"):
        confined(root, path)


def test_links_inside_the_root_are_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert confined(tmp_path, "/link/a") == tmp_path / "real/a"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source_endpoint": "moon"}, "no endpoint 'moon' .known: beamline, compute"),
        ({"DATA": []}, "names no files"),
        ({"DATA": [{"source_path": "a"}]}, "needs source_path and destination_path"),
        ({"DATA": [{"source_path": "a", "destination_path": "b", "recursive": True}]}, "whole folders"),
        ({"DATA": [{"source_path": "../a", "destination_path": "b"}]}, "not inside its root"),
        ({"dry_run": True}, "unknown key dry_run"),
    ],
)
def test_a_body_that_cannot_be_done_is_refused_before_it_begins(place, change, text):
    with pytest.raises(TaskFailed, match=text):
        place.provider.run("r1", {**place.body("a"), **change})
    assert place.provider.run("r1", place.body("a"))


def test_a_missing_source_fails_the_action_with_its_name(place):
    action = place.provider.run("r1", place.body("none.h5"))
    status = place.end(action)
    assert status.status is ActionState.FAILED
    assert status.details["code"] == "TaskFailed"
    assert status.description.endswith("none.h5 is missing")
    assert not status.interrupted


def test_a_destination_that_cannot_be_written_fails_the_action(place):
    (place.source / "a").write_bytes(b"data")
    (place.target / "scans").write_text("a file where a folder should be")
    status = place.end(place.provider.run("r1", place.body("a")))
    assert "cannot copy" in status.description


def test_a_cancelled_action_says_so_and_stays_so(place, monkeypatch):
    copying, stopped = threading.Event(), threading.Event()

    def endless(source, destination, *, report, cancelled):
        copying.set()
        while not cancelled():
            report(1)
        stopped.set()
        raise Cancelled("stopped")

    monkeypatch.setattr(local_transfer, "copy", endless)
    (place.source / "a").write_bytes(CONTENT)
    action = place.provider.run("r1", place.body("a"))
    assert copying.wait(DEADLINE_S)
    assert place.provider.status(action).details["bytes_total"] == len(CONTENT)
    place.provider.cancel(action)
    assert place.provider.status(action).details["code"] == "Cancelled"
    assert stopped.wait(DEADLINE_S)
    place.provider.cancel(action)
    assert place.provider.status(action).details["code"] == "Cancelled"


def test_a_store_has_one_owner(place):
    with pytest.raises(BackendUnavailable, match="in use"):
        LocalTransfer({}, place.path)


def test_a_name_that_no_disk_can_hold_fails_the_transfer(place):
    status = place.end(place.provider.run("r1", place.body("a" * 300)))
    assert status.status is ActionState.FAILED
    assert "File name too long" in status.description


def test_an_end_that_the_disk_refuses_is_known_all_the_same(place, monkeypatch):
    (place.source / "a.h5").write_bytes(b"small")
    database = place.provider._store._database
    writing = database.execute

    def refuse_ends(statement, *values):
        if statement.startswith("UPDATE"):
            raise BackendUnavailable("database or disk is full")
        return writing(statement, *values)

    monkeypatch.setattr(database, "execute", refuse_ends)
    action = place.provider.run("r1", place.body("a.h5"))
    assert place.end(action).status is ActionState.SUCCEEDED
    place.provider.release(action)
    with pytest.raises(BridgeError, match="no action"):
        place.provider.status(action)
