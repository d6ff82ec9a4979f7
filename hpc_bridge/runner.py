"""Runs flows on this machine: many at once, first in first out, and nothing lost when the process is killed."""

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc_bridge import steps
from hpc_bridge.changes import Changes, Trouble
from hpc_bridge.definition import FlowDefinition
from hpc_bridge.dispatch import Begun, Dispatcher
from hpc_bridge.errors import BackendUnavailable, BridgeError, DefinitionError
from hpc_bridge.journal import Journal, Run, RunRow, RunStatus
from hpc_bridge.ports import ActionProvider, ActionState, ActionStatus, Json, Notifier
from hpc_bridge.reader import RunReader
from hpc_bridge.steps import Move, StepError

logger = logging.getLogger(__name__)

POLL_S = 0.05
TROUBLE_S = 1.0
MAX_LOST = 5
"""How often an action may be lost with a process that it may have killed, before its run fails."""
_HELD = "held"


class FlowRunner(RunReader):
    """Drives runs of flow definitions over action providers from one thread.

    What is about to happen is journalled before it happens and actions are begun by request id, so that after a kill
    at any moment the next process goes on where this one was, with every action begun once for each attempt.
    """

    def __init__(
        self,
        path: Path,
        providers: Mapping[str, ActionProvider],
        *,
        max_active: Mapping[str, int] | None = None,
        limits: Mapping[str, int] | None = None,
        poll_s: float = POLL_S,
        trouble: Callable[[str], None] = lambda text: None,
    ) -> None:
        """Open the journal at ``path``; nothing moves before start().

        ``providers`` are found by their action URL. ``max_active`` says how many runs of a kind go on at once,
        ``limits`` how many actions of a state's name; kinds and states without a number are not limited. Providers
        that do not notify are asked every ``poll_s``. ``trouble`` is called from the runner's thread, once per change,
        with a text when the journal cannot be written and with "" when it can again.
        Raises BackendUnavailable when another process holds the journal.
        """
        super().__init__(Journal(path))
        self._dispatcher = Dispatcher(self._journal, providers)
        self._max_active = dict(max_active or {})
        self._limits = dict(limits or {})
        self._poll_s = poll_s
        self._lock = threading.Condition(threading.RLock())
        self._wake = threading.Event()
        self._stopping = False
        self._held = self._journal.setting(_HELD) == "1"
        self._runs = {run.run_id: run for run in self._journal.open_runs()}
        self._actions: dict[str, Begun] = {}
        self._changes = Changes()
        self._trouble = Trouble(trouble)
        self._thread = threading.Thread(target=self._loop, name="flow-runner", daemon=True)

    def start(self) -> None:
        """Resume the runs that have not ended and take new ones."""
        self._dispatcher.cancel_orphans()
        for run in self._runs.values():  # what is at work counts before anything new begins
            if run.status is RunStatus.ACTIVE and (begun := self._dispatcher.take_up(run)):
                self._actions[run.run_id] = begun
        for provider in self._dispatcher.providers.values():
            if isinstance(provider, Notifier):
                provider.notify(self._wake.set)
        self._thread.start()

    def stop(self) -> None:
        """Join the thread and close the journal; running actions are left as they are, to be resumed."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        self._journal.close()

    def __enter__(self) -> "FlowRunner":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def submit(
        self,
        definition: FlowDefinition | Json,
        document: Json,
        label: str,
        *,
        run_id: str | None = None,
        kind: str = "run",
    ) -> str:
        """Queue a run and return its id; an id that is known already is not submitted a second time.

        Raises DefinitionError for a flow that cannot be run here.
        """
        flow = definition if isinstance(definition, FlowDefinition) else FlowDefinition.from_json(definition)
        if missing := self._dispatcher.missing(flow.action_urls):
            raise DefinitionError(f"no provider is configured for {', '.join(missing)}")
        run_id = run_id or str(uuid.uuid4())
        now_s = time.time()
        with self._lock:
            if self._journal.run(run_id) is None:
                place = self._journal.next_ordinal()
                found = (run_id, place, label, kind, flow, document, flow.start_at, RunStatus.QUEUED, now_s, now_s)
                self._save(Run(*found))
        self._wake.set()
        return run_id

    def cancel(self, run_id: str) -> None:
        """End a run now, together with its running action; one that has ended stays as it is."""
        with self._lock:
            run = self._known(run_id)
            if not run.status.ended:
                begun = self._actions.pop(run_id, None)
                self._close(run, RunStatus.CANCELLED, "cancelled")
                # after the run, so that a kill in between leaves an orphan to be found
                if begun is None:  # of a former process, not taken up yet
                    self._dispatcher.cancel_orphans()
                else:
                    self._dispatcher.abandon(begun)
                    self._dispatcher.note_end(begun)
                    self._dispatcher.release(begun)
        self._wake.set()

    def retry(self, run_id: str) -> None:
        """Queue a failed or cancelled run again from the state where it ended, keeping earlier results.

        Raises BridgeError for a run that has not failed.
        """
        with self._lock:
            run = self._known(run_id)
            if run.status not in (RunStatus.FAILED, RunStatus.CANCELLED):
                raise BridgeError(f"run {run_id} is {run.status}: only a failed or cancelled one can be retried")
            place = self._journal.next_ordinal()
            again = replace(run, status=RunStatus.QUEUED, ordinal=place, attempt=run.attempt + 1, lost=0)
            self._save(replace(again, message="", ended_s=None))
        self._wake.set()

    def hold(self, on: bool) -> None:
        """Begin no new run and no new action while on; what runs finishes. Survives a restart."""
        with self._lock:
            self._journal.set_setting(_HELD, "1" if on else "0")
            self._held = on
        self._wake.set()

    @property
    def held(self) -> bool:
        """Whether new work is held."""
        return self._held

    def set_max_active(self, kind: str, number: int) -> None:
        """Let this many runs of a kind go on at once; lowering it lets the running ones finish."""
        with self._lock:
            self._max_active[kind] = number
        self._wake.set()

    def set_limit(self, state: str, number: int) -> None:
        """Let this many actions of states with that name go on at once; lowering it lets the running ones finish."""
        with self._lock:
            self._limits[state] = number
        self._wake.set()

    def current(self, run_id: str) -> ActionStatus | None:
        """Return how the run's action stood when last asked, with its progress; None when none is running."""
        with self._lock:
            begun = self._actions.get(run_id)
            return begun.status if begun else None

    def subscribe(self, callback: Callable[[RunRow], None]) -> None:
        """Call back, from the runner's thread, with each run that changed."""
        self._changes.subscribe(callback)

    def wait(self, run_id: str, timeout_s: float) -> RunRow:
        """Return the run once it has ended. Raises TimeoutError after ``timeout_s``."""
        with self._lock:
            if not self._lock.wait_for(lambda: self._known(run_id).status.ended, timeout_s):
                raise TimeoutError(f"run {run_id} has not ended after {timeout_s:g} s")
            return self._known(run_id).row

    def _known(self, run_id: str) -> Run:
        run = self._runs.get(run_id) or self._journal.run(run_id)
        if run is None:
            raise BridgeError(f"there is no run {run_id}")
        return run

    def _loop(self) -> None:
        while not self._stopping:
            self._wake.clear()
            try:
                moved = self._admit() | self._pass()
            except BackendUnavailable as error:
                self._trouble.set(f"nothing is begun until the journal of runs can be written: {error}")
                self._wake.wait(TROUBLE_S)
                continue
            self._trouble.set("")
            self._changes.publish()
            if not moved and not self._stopping:  # what stop() set may have been cleared above
                self._wake.wait(self._poll_s if self._runs else None)

    def _admit(self) -> bool:
        """Let queued runs begin while there is room for their kind, first in first."""
        with self._lock:
            admitted = [] if self._held else self._admissible()
            for run in admitted:
                now_s = time.time()
                started_s = run.started_s or now_s
                self._save(replace(run, status=RunStatus.ACTIVE, started_s=started_s, entered_s=now_s))
            return bool(admitted)

    def _admissible(self) -> list[Run]:
        active = Counter(run.kind for run in self._runs.values() if run.status is RunStatus.ACTIVE)
        found = []
        for run in sorted(self._runs.values(), key=lambda run: run.ordinal):
            if run.status is RunStatus.QUEUED and active[run.kind] < self._max_active.get(run.kind, inf):
                active[run.kind] += 1
                found.append(run)
        return found

    def _pass(self) -> bool:
        """Move every active run as far as one step, who has waited longest first; tell whether any moved."""
        with self._lock:
            waiting = sorted(self._runs.values(), key=lambda run: (run.entered_s, run.ordinal))
        moved = False
        for run_id in [run.run_id for run in waiting]:
            with self._lock:
                run = self._runs.get(run_id)
                if run is not None and run.status is RunStatus.ACTIVE:
                    moved |= self._advance(run)
        return moved

    def _advance(self, run: Run) -> bool:
        try:
            return self._step(run)
        except BackendUnavailable:
            raise
        except Exception as error:  # a provider's mistake, or a result that cannot be kept, ends this run only
            logger.exception("run %s failed in %s", run.run_id, run.state)
            if begun := self._actions.get(run.run_id):
                self._dispatcher.abandon(begun)
            self._close(run, RunStatus.FAILED, f"{run.state}: {type(error).__name__}: {error}")
            return True

    def _step(self, run: Run) -> bool:
        state = run.definition.states[run.state]
        try:
            move = self._act(run, state) if state["Type"] == "Action" else self._enter(run, state)
        except StepError as error:
            move = steps.caught(state, run.document, error)
            if move is None:
                self._close(run, RunStatus.FAILED, str(error))
                return True
        if move is not None:
            self._follow(run, move)
        return move is not None

    def _enter(self, run: Run, state: Mapping[str, Any]) -> Move | None:
        waited_s = time.time() - run.entered_s
        return steps.enter(run.state, state, run.document, run_id=run.run_id, waited_s=waited_s)

    def _follow(self, run: Run, move: Move) -> None:
        if move.following is None:
            self._close(replace(run, document=move.document), RunStatus.SUCCEEDED, "")
            return
        on = replace(run, document=move.document, state=move.following, entered_s=time.time(), message="")
        self._save(replace(on, step=run.step + 1, attempt=1, lost=0))

    def _close(self, run: Run, status: RunStatus, message: str) -> None:
        self._save(replace(run, status=status, message=message, ended_s=time.time()))

    def _save(self, run: Run) -> None:
        """Journal a run that moved, together with the end of the action it leaves behind, and tell who listens."""
        begun = self._actions.get(run.run_id)
        with self._journal.together():
            self._journal.save(run)
            if begun is not None:
                self._dispatcher.note_end(begun)
        self._actions.pop(run.run_id, None)
        if run.status.ended:
            self._runs.pop(run.run_id, None)
        else:
            self._runs[run.run_id] = run
        if begun is not None:
            self._dispatcher.release(begun)
        self._tell(run)

    def _tell(self, run: Run) -> None:
        self._changes.add(run.row)
        self._lock.notify_all()

    def _act(self, run: Run, state: Mapping[str, Any]) -> Move | None:
        """Begin the state's action or ask how it stands; the move follows once it has succeeded."""
        begun = self._actions.get(run.run_id)
        if begun is None and not self._held and self._is_full(run):
            return None
        begun = begun or self._dispatcher.begin(run, state, held=self._held)
        if begun is None:
            return None
        self._actions[run.run_id] = begun
        self._dispatcher.ask(begun)
        if not begun.status.status.ended:
            self._wait_on(run, begun, state["WaitTime"])
            return None
        lost = run.lost + (not begun.status.blameless)
        if begun.status.interrupted and lost <= MAX_LOST:
            self._save(replace(run, attempt=run.attempt + 1, lost=lost))
            self._wake.set()
            return None
        failed = begun.status.status is ActionState.FAILED
        if failed and (begun.action_id is None or state.get("ExceptionOnActionFailure", True)):
            name = "ActionUnableToRun" if begun.action_id is None else "ActionFailedException"
            raise StepError(name, f"{run.state}: {begun.status.description}")
        return steps.keep(run.state, state, run.document, begun.result)

    def _is_full(self, run: Run) -> bool:
        """Whether the run has to wait for an action of another run in a state of this name; it shows what it waits for.

        Runs are asked in the order in which they came to their states, so that the first gets the place that is free.
        """
        limit = self._limits.get(run.state)
        if limit is None:
            return False
        at_work = sum(self._runs[run_id].state == run.state for run_id in self._actions if run_id in self._runs)
        if at_work < limit:
            return False
        self._note(run, f"waits for {run.state}: {limit} at once")
        return True

    def _note(self, run: Run, message: str) -> None:
        """Show what a run waits for; nothing that a restart would need."""
        if message != run.message:
            self._runs[run.run_id] = noted = replace(run, message=message)
            self._tell(noted)

    def _wait_on(self, run: Run, begun: Begun, wait_s: float) -> None:
        """Show what the action waits for; end it when its time is over."""
        message = begun.status.description
        if begun.overdue:
            self._dispatcher.abandon(begun)
            reason = f" ({message})" if message else ""
            raise StepError("ActionTimeout", f"{run.state}: did not end within its WaitTime of {wait_s:g} s{reason}")
        self._note(run, message)
