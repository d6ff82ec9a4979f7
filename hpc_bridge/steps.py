"""What one state of a flow does to a run's document, for every state that begins no action."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hpc_bridge import choice
from hpc_bridge.choice import timestamp
from hpc_bridge.errors import BridgeError
from hpc_bridge.expressions import compute
from hpc_bridge.paths import CONTEXT, PathError, evaluate, read, write
from hpc_bridge.ports import Json

State = Mapping[str, Any]


class StepError(BridgeError):
    """A state that failed: ``name`` is what a Catch names, the text is what the operator reads."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(cause)
        self.name = name


@dataclass(frozen=True)
class Move:
    """A state that is done: the run's document after it, and the state that follows (None: the run succeeded)."""

    document: Json
    following: str | None


def enter(name: str, state: State, document: Json, *, run_id: str, waited_s: float) -> Move | None:
    """Do a Choice, Fail, Pass or Wait state; None means that it is not over yet.

    ``waited_s`` is the time since the run entered the state. Raises StepError.
    """
    seen = with_context(document, run_id)
    try:
        match state["Type"]:
            case "Choice":
                return Move(document, _chosen(name, state, seen))
            case "Fail":
                ended = f"the flow ended in its state {name}"
                raise StepError(_given(state, "Error", seen, "Fail"), _given(state, "Cause", seen, ended))
            case "Wait":
                return Move(document, state.get("Next")) if _is_over(state, seen, waited_s) else None
            case _:
                return Move(_passed(state, document, seen), state.get("Next"))
    except PathError as error:
        raise StepError("States.ParameterPathFailure", f"{name}: {error}") from error
    except (TypeError, ValueError) as error:
        raise StepError("States.Runtime", f"{name}: {error}") from error


def body(name: str, state: State, document: Json, run_id: str) -> Json:
    """Return what an Action state asks its provider to do. Raises StepError."""
    seen = with_context(document, run_id)
    try:
        found = (
            evaluate(state["Parameters"], seen, compute) if "Parameters" in state else read(seen, state["InputPath"])
        )
    except PathError as error:
        raise StepError("States.ParameterPathFailure", f"{name}: {error}") from error
    if not isinstance(found, dict):
        raise StepError("States.Runtime", f"{name}: the action's body is not an object")
    return found


def keep(name: str, state: State, document: Json, result: Json) -> Move:
    """Return the move after an action that succeeded, with its result at the state's ResultPath. Raises StepError."""
    try:
        return Move(write(document, state["ResultPath"], result), state.get("Next"))
    except PathError as error:
        raise StepError("States.ResultPathMatchFailure", f"{name}: {error}") from error


def caught(state: State, document: Json, error: StepError) -> Move | None:
    """Return the move of the first Catch that names the error, if there is one."""
    for catch in state.get("Catch", []):
        if error.name in catch["ErrorEquals"] or "States.ALL" in catch["ErrorEquals"]:
            found = {"Error": error.name, "Cause": str(error)}
            return Move(write(document, catch["ResultPath"], found), catch["Next"])
    return None


def with_context(document: Json, run_id: str) -> Json:
    """Return the document as paths see it: with the run's context beside the data."""
    return {**document, CONTEXT: {"run_id": run_id}}


def _given(state: State, key: str, seen: Json, default: str) -> str:
    """What a key says, or what stands at the path that the key with Path added names."""
    return str(read(seen, state[f"{key}Path"]) if f"{key}Path" in state else state.get(key, default))


def _is_over(state: State, seen: Json, waited_s: float) -> bool:
    if "Timestamp" in state or "TimestampPath" in state:
        return datetime.now(UTC) >= timestamp(_given(state, "Timestamp", seen, ""))
    seconds = read(seen, state["SecondsPath"]) if "SecondsPath" in state else state["Seconds"]
    return waited_s >= float(seconds)


def _chosen(name: str, state: State, seen: Json) -> str:
    for rule in state["Choices"]:
        if choice.holds(rule, seen):
            return str(rule["Next"])
    if "Default" not in state:
        raise StepError("States.NoChoiceMatched", f"{name}: none of its rules holds and it has no Default")
    return str(state["Default"])


def _passed(state: State, document: Json, seen: Json) -> Json:
    if "Result" in state:
        value = state["Result"]
    elif "Parameters" in state:
        value = evaluate(state["Parameters"], seen, compute)
    elif "InputPath" in state:
        value = read(seen, state["InputPath"])
    else:
        return document
    return write(document, state.get("ResultPath", "$"), value)
