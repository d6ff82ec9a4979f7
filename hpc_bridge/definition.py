"""A flow definition in the JSON dialect of Globus Flows: loading it and checking it without any service."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hpc_bridge import choice
from hpc_bridge.errors import DefinitionError
from hpc_bridge.paths import PathError, parse, references

_ALWAYS = {"Type", "Comment"}
_MOVES = {"Next", "End"}
_KEYS: dict[str, set[str]] = {
    "Action": {"ActionUrl", "Parameters", "InputPath", "ResultPath", "WaitTime", "Catch", "ActionScope", "RunAs"}
    | {"ExceptionOnActionFailure"}
    | _MOVES,
    "Choice": {"Choices", "Default"},
    "Fail": {"Cause", "Error"},
    "Pass": {"Parameters", "Result", "InputPath", "ResultPath"} | _MOVES,
    "Wait": {"Seconds", "SecondsPath"} | _MOVES,
}
_TOP_KEYS = {"StartAt", "States", "Comment"}
_PATH_KEYS = ("InputPath", "ResultPath", "SecondsPath")


@dataclass(frozen=True)
class FlowDefinition:
    """A checked flow: the name of its first state and its states by name."""

    start_at: str
    states: Mapping[str, Mapping[str, Any]]

    @classmethod
    def from_json(cls, source: Any) -> "FlowDefinition":
        """Check the definition as a whole. Raises DefinitionError with everything that is wrong, in one line."""
        found = problems(source)
        if found:
            raise DefinitionError("the flow definition is refused: " + "; ".join(found))
        return cls(source["StartAt"], source["States"])

    def to_json(self) -> dict[str, Any]:
        """Return the document that from_json takes."""
        return {"StartAt": self.start_at, "States": dict(self.states)}

    @property
    def action_urls(self) -> frozenset[str]:
        """Every action that the flow may begin."""
        return frozenset(state["ActionUrl"] for state in self.states.values() if state["Type"] == "Action")


def load(path: Path) -> FlowDefinition:
    """Read and check a definition from a file. Raises DefinitionError naming the file."""
    try:
        return FlowDefinition.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DefinitionError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DefinitionError(f"{path} is not JSON: {error}") from error
    except DefinitionError as error:
        raise DefinitionError(f"{path}: {error}") from error


def shipped(name: str) -> FlowDefinition:
    """Return one of our own flows: ``run`` (one scan) or ``round`` (one training)."""
    with resources.as_file(resources.files("hpc_bridge") / "flows" / f"{name}.json") as path:
        return load(path)


def problems(source: Any) -> list[str]:
    """List everything that the service would refuse or silently mis-run; empty when the definition is sound."""
    if not isinstance(source, dict) or not isinstance(source.get("States"), dict) or not source["States"]:
        return ["it has no States"]
    states = source["States"]
    found = [f"unknown key {key!r}" for key in source if key not in _TOP_KEYS]
    if source.get("StartAt") not in states:
        found.append(f"StartAt names {source.get('StartAt')!r}, which is no state")
    for name, state in states.items():
        found += [f"state {name}: {text}" for text in _state_problems(state, states)]
    if not found:
        found = [f"state {name}: cannot be reached" for name in states if name not in _reached(source)]
    return found


def _state_problems(state: Any, states: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(state, dict):
        yield "is not an object"
        return
    kind = state.get("Type")
    if kind not in _KEYS:
        yield f"the type {kind!r} cannot be run here (known: {', '.join(sorted(_KEYS))})"
        return
    yield from (f"unknown key {key!r}" for key in state if key not in _KEYS[kind] | _ALWAYS)
    if "Next" in _KEYS[kind] and ("Next" in state) == bool(state.get("End")):
        yield "needs either Next or End: true"
    yield from (f"leads to {target!r}, which is no state" for target in targets(state) if target not in states)
    yield from _path_problems(state)
    yield from _kind_problems(kind, state)


def _kind_problems(kind: str, state: Mapping[str, Any]) -> Iterator[str]:
    if kind == "Action":
        yield from _action_problems(state)
    if kind == "Wait" and ("Seconds" in state) == ("SecondsPath" in state):
        yield "needs either Seconds or SecondsPath"
    if kind == "Wait" and "Seconds" in state and not _is_positive(state["Seconds"]):
        yield "Seconds is not a positive number"
    if kind == "Pass" and sum(key in state for key in ("Parameters", "Result", "InputPath")) > 1:
        yield "takes only one of Parameters, Result and InputPath"
    if kind == "Choice":
        if not isinstance(state.get("Choices"), list) or not state["Choices"]:
            yield "has no Choices"
            return
        yield from (text for rule in state["Choices"] for text in choice.problems(rule))


def _action_problems(state: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(state.get("ActionUrl"), str):
        yield "has no ActionUrl"
    if ("Parameters" in state) == ("InputPath" in state):
        yield "needs either Parameters or InputPath"
    if not _is_positive(state.get("WaitTime")):
        yield "has no WaitTime in seconds (the service would stop it after 300 s)"
    if state.get("ResultPath", "$") == "$":
        yield "its result would overwrite the whole document: give a ResultPath below $"
    for catch in state.get("Catch", []):
        if not isinstance(catch, dict) or not isinstance(catch.get("ErrorEquals"), list) or "Next" not in catch:
            yield "a Catch needs ErrorEquals and Next"
        elif catch.get("ResultPath", "$") == "$":
            yield "a Catch would overwrite the whole document: give it a ResultPath below $"


def _path_problems(state: Mapping[str, Any]) -> Iterator[str]:
    paths = [state[key] for key in _PATH_KEYS if key in state] + references(state.get("Parameters"))
    for path in paths:
        try:
            parse(str(path))
        except PathError as error:
            yield str(error)
    yield from (f"the expression {key!r} cannot be run here" for key in _expressions(state.get("Parameters")))


def _expressions(template: Any) -> list[str]:
    if isinstance(template, list):
        return [key for item in template for key in _expressions(item)]
    if not isinstance(template, dict):
        return []
    return [key for key in template if key.endswith(".=")] + _expressions(list(template.values()))


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def targets(state: Mapping[str, Any]) -> list[str]:
    """List the states that may follow this one."""
    rules = [rule for key in ("Choices", "Catch") for rule in state.get(key) or [] if isinstance(rule, dict)]
    found = [state.get("Next"), state.get("Default"), *(rule.get("Next") for rule in rules)]
    return [name for name in found if name is not None]


def _reached(source: Mapping[str, Any]) -> set[str]:
    seen: set[str] = set()
    waiting = [source["StartAt"]]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += targets(source["States"][name])
    return seen
