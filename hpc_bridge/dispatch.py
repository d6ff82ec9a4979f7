"""The actions of the runs that go on: journalled before they begin, begun once, asked, ended in time."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from hpc_bridge import steps
from hpc_bridge.errors import BackendUnavailable, BridgeError, Cancelled
from hpc_bridge.journal import ActionRow, Journal, Run
from hpc_bridge.ports import ActionProvider, ActionState, ActionStatus, Json
from hpc_bridge.steps import StepError

Answer = TypeVar("Answer")


@dataclass
class Begun:
    """The action of a run's present state; ``action_id`` is None until its provider has accepted it."""

    request_id: str
    provider: ActionProvider
    body: Json
    action_id: str | None
    deadline_s: float
    status: ActionStatus = field(default_factory=lambda: ActionStatus(ActionState.ACTIVE))

    @property
    def overdue(self) -> bool:
        """Whether its WaitTime is over; a new process counts afresh, so that time spent down does not matter."""
        return time.monotonic() >= self.deadline_s

    @property
    def result(self) -> Json:
        """What the flow's document keeps of it."""
        return {"action_id": self.action_id, "status": self.status.status, "details": dict(self.status.details)}


class Dispatcher:
    """Begins, asks and ends actions at the providers of their URLs."""

    def __init__(self, journal: Journal, providers: Mapping[str, ActionProvider]) -> None:
        self._journal = journal
        self.providers = {url.rstrip("/"): provider for url, provider in providers.items()}

    def missing(self, urls: frozenset[str]) -> list[str]:
        """Return the URLs that nobody serves."""
        return sorted(url for url in urls if url.rstrip("/") not in self.providers)

    def take_up(self, run: Run) -> Begun | None:
        """Return the action of the run's present state that a former process journalled, if it did."""
        row = self._journal.action(run.request_id)
        return None if row is None or self.missing(frozenset([row.url])) else self._begun(run, row.body, row.action_id)

    def begin(self, run: Run, state: Mapping[str, Any], *, held: bool) -> Begun | None:
        """Journal the action that is about to begin; None while new work is held. Raises StepError."""
        if self.missing(frozenset([state["ActionUrl"]])):
            raise StepError("ActionUnableToRun", f"{run.state}: no provider is configured for {state['ActionUrl']}")
        if held:
            return None
        body = steps.body(run.state, state, run.document, run.run_id)
        self._journal.begin_action(run, state["ActionUrl"], body, time.time())
        return self._begun(run, body, None)

    def _begun(self, run: Run, body: Json, action_id: str | None) -> Begun:
        state = run.definition.states[run.state]
        provider = self.providers[state["ActionUrl"].rstrip("/")]
        return Begun(run.request_id, provider, body, action_id, time.monotonic() + state["WaitTime"])

    def ask(self, begun: Begun) -> None:
        """Update the action's status, beginning it if its provider has not accepted it yet.

        Raises BackendUnavailable when the journal cannot be written, which is no word about the provider.
        """
        if begun.action_id is None:
            accepted = _answer(begun, partial(begun.provider.run, begun.request_id, begun.body))
            if accepted is None:
                return
            self._journal.begun_action(begun.request_id, accepted)
            begun.action_id = accepted
        begun.status = _answer(begun, partial(begun.provider.status, begun.action_id)) or begun.status

    def abandon(self, begun: Begun) -> None:
        """Cancel an action whose result is not awaited any more."""
        begun.status = ActionStatus.failed(Cancelled("cancelled by the runner"))
        if begun.action_id is not None:
            with suppress(BridgeError):  # ended or unreachable: there is nothing more to be done about it here
                begun.provider.cancel(begun.action_id)

    def note_end(self, begun: Begun) -> None:
        """Journal how the action ended."""
        status = begun.status
        self._journal.end_action(begun.request_id, status.status, status.description, time.time())

    def release(self, begun: Begun) -> None:
        """Let the provider forget the action, once its end is journalled."""
        if begun.action_id is not None and begun.status.status.ended:
            with suppress(BridgeError):  # a record that stays behind at the provider does no harm
                begun.provider.release(begun.action_id)

    def cancel_orphans(self) -> None:
        """Cancel the actions of runs that were cancelled just before a former process was killed."""
        for row in self._journal.orphans():
            self._cancel_orphan(row)

    def _cancel_orphan(self, row: ActionRow) -> None:
        provider = self.providers.get(row.url.rstrip("/"))
        if provider is not None and row.action_id is not None:
            with suppress(BridgeError):  # ended or unreachable
                provider.cancel(row.action_id)
        self._journal.end_action(row.request_id, ActionState.FAILED, "cancelled by the runner", time.time())


def _answer(begun: Begun, question: Callable[[], Answer]) -> Answer | None:
    """What the provider answers; None when it cannot, which is then the action's status."""
    try:
        return question()
    except BackendUnavailable as error:  # asked again until the deadline: it may come back
        begun.status = ActionStatus(ActionState.ACTIVE, {"description": str(error)})
    except BridgeError as error:
        begun.status = ActionStatus.failed(error)
    return None
