"""What a flow needs from the places where its actions run: the Action Provider contract of Globus."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

Json = dict[str, Any]


class ActionState(StrEnum):
    """Where an action stands; INACTIVE means that it waits for a person, such as a missing consent."""

    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"

    @property
    def ended(self) -> bool:
        """Whether the action will not change any more."""
        return self in (ActionState.SUCCEEDED, ActionState.FAILED)


@dataclass(frozen=True)
class ActionStatus:
    """One action as its provider sees it.

    A FAILED action's details hold ``code`` (the name of an error of hpc_bridge.errors), ``description`` (one line) and
    ``interrupted`` (true when the process that ran it died, so that the outcome is unknown), then also ``blameless``
    (true when it cannot have been the cause: it had not begun, or was stopped).
    """

    status: ActionState
    details: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def failed(cls, error: Exception, **more: Any) -> "ActionStatus":
        """Return how an action stands that a named error of hpc_bridge.errors has ended."""
        return cls(ActionState.FAILED, {"code": type(error).__name__, "description": str(error), **more})

    @property
    def interrupted(self) -> bool:
        """Whether the action was lost with the process that ran it and may be begun again as a new attempt."""
        return self.status is ActionState.FAILED and bool(self.details.get("interrupted"))

    @property
    def blameless(self) -> bool:
        """Whether an interruption is not held against the action, however often it happens."""
        return bool(self.details.get("blameless"))

    @property
    def description(self) -> str:
        """The one line that says what is wrong; empty while nothing is."""
        return str(self.details.get("description", ""))


class ActionProvider(Protocol):
    """Begins actions and tells how they stand. Every method is quick and may be called from any thread."""

    def run(self, request_id: str, body: Json) -> str:
        """Begin the action and return its id; the same request_id never begins twice and returns the same id.

        Raises BridgeError when the body cannot be accepted.
        """

    def status(self, action_id: str) -> ActionStatus:
        """Tell how the action stands. Raises BridgeError for an unknown id."""

    def cancel(self, action_id: str) -> None:
        """Ask the action to end now; it becomes FAILED with the code Cancelled unless it has ended already."""

    def release(self, action_id: str) -> None:
        """Forget an action that has ended."""


@runtime_checkable
class Notifier(Protocol):
    """A provider that can say when one of its actions changed, so that the next step follows at once."""

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back, from any thread, whenever an action has ended."""
