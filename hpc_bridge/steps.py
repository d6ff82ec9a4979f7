"""What one state of a flow does to a run's document, for every state that begins no action."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hpc_bridge import choice
from hpc_bridge.errors import BridgeError
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
                raise StepError(state.get("Error", "Fail"), state.get("Cause", f"the flow ended in its state {name}"))
            case "Wait":
                over = waited_s >= float(state["Seconds"] if "Seconds" in state else read(seen, state["SecondsPath"]))
                return Move(document, state.get("Next")) if over else None
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
        found = evaluate(state["Parameters"], seen) if "Parameters" in state else read(seen, state["InputPath"])
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
        value = evaluate(state["Parameters"], seen)
    elif "InputPath" in state:
        value = read(seen, state["InputPath"])
    else:
        return document
    return write(document, state.get("ResultPath", "$"), value)
