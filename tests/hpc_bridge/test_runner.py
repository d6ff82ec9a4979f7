import queue
import threading

import pytest
from scripted import DEADLINE_S, Scripted, action

import hpc_bridge.runner as runner_module
from hpc_bridge.errors import BackendUnavailable, BridgeError, DefinitionError, TaskFailed
from hpc_bridge.journal import RunStatus
from hpc_bridge.ports import ActionState
from hpc_bridge.runner import MAX_LOST, FlowRunner

TWO = {"StartAt": "A", "States": {"A": action("B", ResultPath="$.a"), "B": action(ResultPath="$.b")}}
ONE = {"StartAt": "A", "States": {"A": action()}}
LONG_POLL_S = 600.0  # so that only what wakes the runner moves it


@pytest.fixture
def provider():
    return Scripted()


@pytest.fixture
def runner(tmp_path, provider):
    with make(tmp_path, provider) as runner:
        yield runner


def make(folder, provider, **options):
    return FlowRunner(folder / "runs.sqlite", {"https://act.test": provider}, poll_s=LONG_POLL_S, **options)


def submit(runner, flow=ONE, label="scan", **options):
    return runner.submit(flow, {"number": 1}, label, **options)


def until(heard, condition):
    while not condition(heard.get(timeout=DEADLINE_S)):
        pass


def test_steps_follow_one_another_and_results_are_kept(runner, provider):
    run = submit(runner, TWO)
    provider.succeed(provider.next_started(), value=5)
    provider.succeed(provider.next_started(), value=6)
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    document = runner.document(run)
    assert document["a"]["details"]["value"] == 5
    assert document["b"]["status"] == "SUCCEEDED"
    assert provider.begun == [f"{run}:0:1", f"{run}:1:1"]
    assert [row.status for row in runner.actions(run)] == ["SUCCEEDED", "SUCCEEDED"]


def test_subscribers_hear_every_change_and_a_broken_one_stops_nothing(runner, provider):
    heard = queue.Queue()
    runner.subscribe(lambda row: 1 / 0)
    runner.subscribe(heard.put)
    provider.automatic = True
    submit(runner, TWO)
    rows = [heard.get(timeout=DEADLINE_S) for _ in range(4)]
    assert [(row.status, row.state) for row in rows] == [
        ("QUEUED", "A"),
        ("ACTIVE", "A"),
        ("ACTIVE", "B"),
        ("SUCCEEDED", "B"),
    ]


def test_first_in_first_out_within_the_limit(tmp_path, provider):
    with make(tmp_path, provider, max_active={"run": 2}) as runner:
        runs = [submit(runner, label=str(number)) for number in range(4)]
        first, second = provider.next_started(), provider.next_started()
        assert [first, second] == [f"{run}:0:1" for run in runs[:2]]
        assert [row.status for row in reversed(runner.snapshot())] == ["ACTIVE", "ACTIVE", "QUEUED", "QUEUED"]
        provider.succeed(second)
        assert provider.next_started() == f"{runs[2]}:0:1"
        runner.set_max_active("run", 3)
        assert provider.next_started() == f"{runs[3]}:0:1"
        assert runner.counts()[RunStatus.SUCCEEDED] == 1


def test_kinds_have_room_of_their_own(tmp_path, provider):
    with make(tmp_path, provider, max_active={"run": 1}) as runner:
        runs = [submit(runner, kind=kind) for kind in ("run", "run", "round")]
        assert [provider.next_started() for _ in range(2)] == [f"{runs[0]}:0:1", f"{runs[2]}:0:1"]


def test_a_stage_has_its_limit_while_others_go_on(tmp_path, provider):
    heard = queue.Queue()
    with make(tmp_path, provider, limits={"B": 1}) as runner:
        runner.subscribe(heard.put)
        runs = [submit(runner, TWO, label=str(number)) for number in range(3)]
        begun = [provider.next_started() for _ in runs]
        assert begun == [f"{run}:0:1" for run in runs]  # A is not limited
        for run in (runs[2], runs[0], runs[1]):  # the last comes to B first
            provider.succeed(f"{run}:0:1")
            until(heard, lambda row, run=run: row.run_id == run and row.state == "B")
        assert provider.next_started() == f"{runs[2]}:1:1"
        until(heard, lambda row: row.run_id == runs[1] and row.message == "waits for B: 1 at once")
        provider.succeed(f"{runs[2]}:1:1")
        assert provider.next_started() == f"{runs[0]}:1:1"
        runner.set_limit("B", 2)
        assert provider.next_started() == f"{runs[1]}:1:1"
        runner.set_limit("B", 0)
        runner.retry(cancelled(runner, runs[1]))
        provider.succeed(f"{runs[0]}:1:1")
        runner.wait(runs[0], DEADLINE_S)
        assert provider.started.empty()
        runner.set_limit("B", 1)
        assert provider.next_started() == f"{runs[1]}:1:2"


def cancelled(runner, run):
    runner.cancel(run)
    return run


def test_what_is_at_work_counts_after_a_restart_before_anything_new_begins(tmp_path, provider):
    with make(tmp_path, provider, limits={"A": 1}) as runner:
        first = submit(runner, label="first")
        assert provider.next_started() == f"{first}:0:1"
        second = submit(runner, label="second")
    with make(tmp_path, provider, limits={"A": 1}) as runner:
        third = submit(runner, label="third")
        provider.succeed(f"{first}:0:1")
        assert provider.next_started() == f"{second}:0:1"
        provider.succeed(f"{second}:0:1")
        assert provider.next_started() == f"{third}:0:1"
    assert provider.begun == [f"{run}:0:1" for run in (first, second, third)]


def test_an_id_is_submitted_once(runner, provider):
    assert submit(runner, run_id="r") == "r"
    provider.succeed(provider.next_started())
    runner.wait("r", DEADLINE_S)
    assert submit(runner, run_id="r") == "r"
    assert runner.wait("r", DEADLINE_S).status is RunStatus.SUCCEEDED
    assert provider.begun == ["r:0:1"]


def test_a_failure_ends_its_run_only_and_retry_goes_on_from_there(runner, provider):
    run, other = submit(runner, TWO), submit(runner)
    provider.succeed(provider.next_started(), value=5)
    other_request = provider.next_started()
    provider.fail(provider.next_started(), "the probe diverged", code="TaskFailed")
    row = runner.wait(run, DEADLINE_S)
    assert (row.status, row.state, row.message) == (RunStatus.FAILED, "B", "B: the probe diverged")
    runner.retry(run)
    assert provider.next_started() == f"{run}:1:2"
    provider.succeed(f"{run}:1:2")
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert runner.document(run)["a"]["details"]["value"] == 5
    provider.succeed(other_request)
    assert runner.wait(other, DEADLINE_S).status is RunStatus.SUCCEEDED
    with pytest.raises(BridgeError, match="is SUCCEEDED"):
        runner.retry(run)


def test_catch_goes_on_where_it_says(runner, provider):
    catch = [{"ErrorEquals": ["ActionFailedException"], "Next": "B", "ResultPath": "$.error"}]
    flow = {"StartAt": "A", "States": {"A": action("B", Catch=catch), "B": action(ResultPath="$.b")}}
    run = submit(runner, flow)
    provider.fail(provider.next_started(), "no light")
    provider.succeed(provider.next_started())
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert runner.document(run)["error"] == {"Error": "ActionFailedException", "Cause": "A: no light"}


def test_cancel_is_at_once_for_queued_and_running(tmp_path, provider):
    with make(tmp_path, provider, max_active={"run": 1}) as runner:
        running, queued = submit(runner), submit(runner)
        request = provider.next_started()
        runner.cancel(queued)
        assert runner.wait(queued, 0).status is RunStatus.CANCELLED
        runner.cancel(running)
        assert runner.wait(running, 0).status is RunStatus.CANCELLED
        assert provider.cancelled.get(timeout=DEADLINE_S) == request
        assert all(row.ended_s for row in runner.actions(running))
        runner.cancel(running)
        runner.retry(running)
        assert provider.next_started() == f"{running}:0:2"


def test_an_action_over_its_wait_time_is_cancelled(tmp_path, provider):
    with FlowRunner(tmp_path / "runs.sqlite", {"https://act.test": provider}, poll_s=0.01) as runner:
        run = submit(runner, {"StartAt": "A", "States": {"A": action(WaitTime=0.05)}})
        row = runner.wait(run, DEADLINE_S)
        assert row.message == "A: did not end within its WaitTime of 0.05 s"
        assert provider.cancelled.get(timeout=DEADLINE_S) == f"{run}:0:1"


def test_hold_begins_nothing_lets_running_finish_and_survives(tmp_path, provider):
    with make(tmp_path, provider) as runner:
        run = submit(runner, TWO)
        request = provider.next_started()
        heard = queue.Queue()
        runner.subscribe(heard.put)
        runner.hold(True)
        provider.succeed(request)
        until(heard, lambda row: row.state == "B")
        waiting = submit(runner)
    with make(tmp_path, provider) as runner:
        assert runner.held
        assert [row.status for row in runner.snapshot()] == [RunStatus.QUEUED, RunStatus.ACTIVE]
        assert provider.begun == [request]
        runner.hold(False)
        assert {provider.next_started(), provider.next_started()} == {f"{run}:1:1", f"{waiting}:0:1"}


def test_a_lost_action_is_begun_again_a_bounded_number_of_times(runner, provider):
    run = submit(runner)
    for attempt in range(1, MAX_LOST + 2):
        request = provider.next_started()
        assert request == f"{run}:0:{attempt}"
        provider.fail(request, "the process ended", interrupted=True)
    assert runner.wait(run, DEADLINE_S).message == "A: the process ended"
    assert len(runner.actions(run)) == MAX_LOST + 1


def test_an_action_that_is_lost_without_its_fault_is_begun_again_however_often(runner, provider):
    run = submit(runner)
    for _ in range(MAX_LOST + 1):
        provider.fail(provider.next_started(), "the process ended", interrupted=True, blameless=True)
    provider.succeed(provider.next_started())
    assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED


def test_a_restart_takes_up_the_running_action(tmp_path, provider):
    with make(tmp_path, provider) as runner:
        run = submit(runner, TWO)
        request = provider.next_started()
    with make(tmp_path, provider) as runner:
        provider.succeed(request)
        provider.succeed(provider.next_started())
        assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert provider.begun == [f"{run}:0:1", f"{run}:1:1"]


def test_a_provider_that_is_away_is_asked_again(tmp_path, provider):
    provider.refusal = lambda: BackendUnavailable("no network")
    with FlowRunner(tmp_path / "runs.sqlite", {"https://act.test": provider}, poll_s=0.01) as runner:
        heard = queue.Queue()
        runner.subscribe(heard.put)
        run = submit(runner)
        until(heard, lambda row: row.message == "no network")
        provider.refusal = None
        provider.succeed(provider.next_started())
        assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TaskFailed("no such endpoint"), "A: no such endpoint"),
        (ZeroDivisionError("oops"), "A: ZeroDivisionError: oops"),
    ],
)
def test_a_refused_body_and_a_broken_provider_end_the_run(runner, provider, error, message):
    provider.refusal = lambda: error
    run = submit(runner)
    assert runner.wait(run, DEADLINE_S).message == message


def test_a_path_that_leads_nowhere_ends_the_run(runner):
    run = runner.submit(ONE, {}, "scan")
    assert "$.number leads nowhere" in runner.wait(run, DEADLINE_S).message


def test_unknown_urls_and_ids_are_refused(runner):
    flow = {"StartAt": "A", "States": {"A": action(ActionUrl="test:other")}}
    with pytest.raises(DefinitionError, match="test:other"):
        submit(runner, flow)
    for method in (runner.cancel, runner.retry, runner.document):
        with pytest.raises(BridgeError, match="no run"):
            method("nobody")


def test_the_journal_has_one_owner(tmp_path, provider, runner):
    with pytest.raises(BackendUnavailable, match="in use by another process"):
        make(tmp_path, provider)


def test_progress_of_the_running_action_is_seen(runner, provider):
    run = submit(runner)
    request = provider.next_started()
    heard = queue.Queue()
    runner.subscribe(heard.put)
    provider.end(request, ActionState.INACTIVE, description="grant the consent")
    until(heard, lambda row: row.message == "grant the consent")
    assert runner.current(run).details["description"] == "grant the consent"
    provider.succeed(request)
    runner.wait(run, DEADLINE_S)
    assert runner.current(run) is None


def test_a_result_that_cannot_be_kept_ends_its_run_and_no_other(runner, provider):
    run, other = submit(runner), submit(runner)
    requests = [provider.next_started(), provider.next_started()]
    provider.succeed(requests[0], value=object())
    row = runner.wait(run, DEADLINE_S)
    assert row.status is RunStatus.FAILED
    assert "not JSON serializable" in row.message
    provider.succeed(requests[1])
    assert runner.wait(other, DEADLINE_S).status is RunStatus.SUCCEEDED


def test_a_catch_that_cannot_write_its_error_ends_its_run_and_no_other(runner, provider):
    catch = [{"ErrorEquals": ["States.ALL"], "Next": "B", "ResultPath": "$.number.error"}]
    flow = {"StartAt": "A", "States": {"A": action("B", Catch=catch), "B": action(ResultPath="$.b")}}
    run, other = submit(runner, flow), submit(runner)
    requests = [provider.next_started(), provider.next_started()]
    provider.fail(requests[0], "no light")
    assert "$.number.error cannot be written" in runner.wait(run, DEADLINE_S).message
    provider.succeed(requests[1])
    assert runner.wait(other, DEADLINE_S).status is RunStatus.SUCCEEDED


def test_a_run_cancelled_before_its_action_is_taken_up_leaves_none_running(tmp_path, provider):
    with make(tmp_path, provider) as runner:
        run = submit(runner)
        request = provider.next_started()
    runner = make(tmp_path, provider)
    runner.cancel(run)
    runner.stop()
    assert provider.cancelled.get_nowait() == request


def test_a_journal_that_cannot_be_written_is_told_once_and_so_is_its_return(tmp_path, provider, monkeypatch):
    monkeypatch.setattr(runner_module, "TROUBLE_S", 0.01)
    told, tried = queue.Queue(), queue.Queue()
    with make(tmp_path, provider, trouble=told.put) as runner:
        run = submit(runner)
        request = provider.next_started()
        database = runner._journal._database
        admitting = runner._admit
        monkeypatch.setattr(runner, "_admit", lambda: tried.put(None) or admitting())
        database.execute("PRAGMA query_only=ON")
        provider.succeed(request)
        assert "journal of runs can be written: " in (text := told.get(timeout=DEADLINE_S))
        assert "readonly database" in text
        for _ in range(3):
            tried.get(timeout=DEADLINE_S)
        assert told.empty()
        database.execute("PRAGMA query_only=OFF")
        assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
        assert told.get(timeout=DEADLINE_S) == ""
    assert told.empty()


def test_a_journal_that_fails_as_an_action_is_accepted_is_no_fault_of_its_provider(tmp_path, provider, monkeypatch):
    monkeypatch.setattr(runner_module, "TROUBLE_S", 0.01)
    told, messages = queue.Queue(), []
    with make(tmp_path, provider, trouble=told.put) as runner:
        runner.subscribe(lambda row: messages.append(row.message))
        noting, failures = runner._journal.begun_action, iter([BackendUnavailable("full")])

        def note_unless_full(*values):
            for failure in failures:
                raise failure
            noting(*values)

        monkeypatch.setattr(runner._journal, "begun_action", note_unless_full)
        run = submit(runner)
        assert told.get(timeout=DEADLINE_S).endswith("full") and told.get(timeout=DEADLINE_S) == ""
        provider.succeed(provider.next_started())
        assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED
    assert provider.begun == [f"{run}:0:1"] and not any(messages)


def test_a_listener_that_fails_on_trouble_stops_no_run(tmp_path, provider, monkeypatch):
    monkeypatch.setattr(runner_module, "TROUBLE_S", 0.01)
    called = threading.Event()

    def fail(text):
        called.set()
        raise ZeroDivisionError

    with make(tmp_path, provider, trouble=fail) as runner:
        run = submit(runner)
        request = provider.next_started()
        database = runner._journal._database
        database.execute("PRAGMA query_only=ON")
        provider.succeed(request)
        assert called.wait(DEADLINE_S)
        database.execute("PRAGMA query_only=OFF")
        assert runner.wait(run, DEADLINE_S).status is RunStatus.SUCCEEDED


class _LateClear(threading.Event):
    """A wake-up that is cleared just after stop() has set it."""

    def __init__(self, stop):
        super().__init__()
        self._stop = stop

    def clear(self):
        self._stop()
        self.set()
        super().clear()


def test_stop_is_heard_between_two_rounds_of_the_loop(tmp_path, provider, monkeypatch):
    runner = make(tmp_path, provider)
    monkeypatch.setattr(runner, "_wake", _LateClear(lambda: setattr(runner, "_stopping", True)))
    runner.start()
    runner._thread.join(DEADLINE_S)
    heard = not runner._thread.is_alive()
    runner.stop()
    assert heard
