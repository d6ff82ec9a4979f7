"""A provider in memory whose actions end when the test says so."""

import queue
from collections.abc import Callable
from dataclasses import dataclass, field

from hpc_bridge.errors import BridgeError, TaskFailed
from hpc_bridge.ports import ActionState, ActionStatus, Json

DEADLINE_S = 300.0


@dataclass
class Scripted:
    begun: list[str] = field(default_factory=list)
    bodies: dict[str, Json] = field(default_factory=dict)
    ended: dict[str, ActionStatus] = field(default_factory=dict)
    cancelled: queue.Queue[str] = field(default_factory=queue.Queue)
    started: queue.Queue[str] = field(default_factory=queue.Queue)
    refuse: str = ""
    automatic: bool = False
    refusal: Callable[[], BridgeError] | None = None
    callback: Callable[[], None] = lambda: None

    def run(self, request_id: str, body: Json) -> str:
        if self.refusal is not None:
            raise self.refusal()
        if request_id not in self.bodies:
            self.begun.append(request_id)
            self.bodies[request_id] = body
            if self.automatic:
                self.ended[request_id] = ActionStatus(ActionState.SUCCEEDED, {"body": body})
            self.started.put(request_id)
        return request_id

    def status(self, action_id: str) -> ActionStatus:
        return self.ended.get(action_id, ActionStatus(ActionState.ACTIVE))

    def cancel(self, action_id: str) -> None:
        self.cancelled.put(action_id)

    def release(self, action_id: str) -> None:
        if action_id not in self.ended:
            raise TaskFailed("it has not ended")

    def notify(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def next_started(self) -> str:
        return self.started.get(timeout=DEADLINE_S)

    def succeed(self, request_id: str, **details: object) -> None:
        self.end(request_id, ActionState.SUCCEEDED, **details)

    def fail(self, request_id: str, text: str, **details: object) -> None:
        self.end(request_id, ActionState.FAILED, description=text, **details)

    def end(self, request_id: str, state: ActionState, **details: object) -> None:
        self.ended[request_id] = ActionStatus(state, details)
        self.callback()


def action(following: str | None = None, **more: object) -> Json:
    """One Action state that keeps its result under its own step's name."""
    state: Json = {
        "Type": "Action",
        "ActionUrl": "https://act.test",
        "Parameters": {"number.$": "$.number"},
        "WaitTime": 60,
    }
    state |= {"ResultPath": "$.result"} | more
    return state | ({"Next": following} if following else {"End": True})
