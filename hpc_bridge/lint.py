"""What Globus Flows would refuse in a flow definition, or silently run otherwise than meant; found offline."""

from collections.abc import Iterator, Mapping
from typing import Any

from hpc_bridge import choice, expressions
from hpc_bridge.paths import PRIVATE, PathError, parse, references

_ALWAYS = {"Type", "Comment"}
_MOVES = {"Next", "End"}
_KEYS: dict[str, set[str]] = {
    "Action": {"ActionUrl", "Parameters", "InputPath", "ResultPath", "WaitTime", "Catch", "ActionScope", "RunAs"}
    | {"ExceptionOnActionFailure"}
    | _MOVES,
    "Choice": {"Choices", "Default"},
    "ExpressionEval": {"Parameters", "ResultPath"} | _MOVES,
    "Fail": {"Cause", "CausePath", "Error", "ErrorPath"},
    "Pass": {"Parameters", "Result", "InputPath", "ResultPath"} | _MOVES,
    "Wait": {"Seconds", "SecondsPath", "Timestamp", "TimestampPath"} | _MOVES,
}
_TOP_KEYS = {"StartAt", "States", "Comment"}
_PATH_KEYS = ("InputPath", "ResultPath", "SecondsPath", "TimestampPath", "CausePath", "ErrorPath")
_INSTEAD = {
    "Succeed": "end the state before it with End: true",
    "Parallel": "give one Compute action several tasks, or start flows of their own",
    "Map": "give one Compute action several tasks, or loop with a Choice",
    "Task": "call it Action",
}
_DEAD_URLS = {
    "https://actions.globus.org/transfer": "https://transfer.actions.globus.org/transfer",
    "https://actions.automate.globus.org/transfer": "https://transfer.actions.globus.org/transfer",
    "https://api.funcx.org/automate": "https://compute.actions.globus.org/v3",
    "https://automate.funcx.org": "https://compute.actions.globus.org/v3",
    "https://compute.actions.globus.org/fx": "https://compute.actions.globus.org/v3",
}


def problems(source: Any) -> list[str]:
    """List everything that is wrong with a definition, a line each; empty when it is sound."""
    if not isinstance(source, dict) or not isinstance(source.get("States"), dict) or not source["States"]:
        return ["it has no States"]
    states = source["States"]
    found = [f"unknown key {key!r}" for key in source if key not in _TOP_KEYS]
    if not _is_state(source.get("StartAt"), states):
        found.append(f"StartAt names {source.get('StartAt')!r}, which is no state")
    for name, state in states.items():
        found += [f"state {name}: {text}" for text in _state_problems(state, states)]
    return found or list(_ways(source["StartAt"], states))


def targets(state: Mapping[str, Any]) -> list[Any]:
    """List the states that may follow this one."""
    rules = [rule for key in ("Choices", "Catch") for rule in _list(state.get(key)) if isinstance(rule, dict)]
    found = [state.get("Next"), state.get("Default"), *(rule.get("Next") for rule in rules)]
    return [name for name in found if name is not None]


def _state_problems(state: Any, states: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(state, dict):
        yield "is not an object"
        return
    kind = state.get("Type")
    if not isinstance(kind, str) or kind not in _KEYS:
        advice = f": {_INSTEAD[kind]}" if isinstance(kind, str) and kind in _INSTEAD else ""
        yield f"the type {kind!r} does not exist (known: {', '.join(sorted(_KEYS))}){advice}"
        return
    yield from (f"unknown key {key!r}" for key in state if key not in _KEYS[kind] | _ALWAYS)
    if "Next" in _KEYS[kind]:
        if "End" in state and state["End"] is not True:
            yield "End can only be true"
        elif ("Next" in state) == ("End" in state):
            yield "needs either Next or End: true"
    yield from (f"leads to {to!r}, which is no state" for to in targets(state) if not _is_state(to, states))
    yield from _path_problems(state)
    yield from _KIND_PROBLEMS[kind](state)


def _action_problems(state: Mapping[str, Any]) -> Iterator[str]:
    yield from _url_problems(state.get("ActionUrl"))
    if ("Parameters" in state) == ("InputPath" in state):
        yield "needs either Parameters or InputPath"
    yield from _parameter_problems(state)
    if not _is_positive(state.get("WaitTime")):
        yield "has no WaitTime in seconds (the service would stop it after 300 s)"
    if state.get("ResultPath", "$") == "$":
        yield "its result would overwrite the whole document: give a ResultPath below $"
    if not isinstance(state.get("ExceptionOnActionFailure", True), bool):
        yield "ExceptionOnActionFailure is neither true nor false"
    if "Catch" in state and not isinstance(state["Catch"], list):
        yield "its Catch is not a list"
    for catch in _list(state.get("Catch")):
        if not isinstance(catch, dict) or not _are_texts(catch.get("ErrorEquals")) or "Next" not in catch:
            yield "a Catch needs ErrorEquals, a list of names, and Next"
        elif catch.get("ResultPath", "$") == "$":
            yield "a Catch would overwrite the whole document: give it a ResultPath below $"


def _url_problems(url: Any) -> Iterator[str]:
    if not isinstance(url, str) or not url.startswith("https://"):
        yield f"has no ActionUrl that begins with https://, but {url!r}"
        return
    for dead, new in _DEAD_URLS.items():
        if url.startswith(dead):
            yield f"its ActionUrl {url} is served no more: it is {new} now"


def _choice_problems(state: Mapping[str, Any]) -> Iterator[str]:
    rules = state.get("Choices")
    if not isinstance(rules, list) or not rules:
        yield "has no Choices"
        return
    for rule in rules:
        if isinstance(rule, dict) and "Next" not in rule:
            yield "a rule has no Next"
        yield from choice.problems(rule)


def _pass_problems(state: Mapping[str, Any]) -> Iterator[str]:
    if sum(key in state for key in ("Parameters", "Result", "InputPath")) > 1:
        yield "takes only one of Parameters, Result and InputPath"
    yield from _parameter_problems(state)


def _expression_problems(state: Mapping[str, Any]) -> Iterator[str]:
    if "Parameters" not in state:
        yield "has no Parameters"
    if state.get("ResultPath", "$") == "$":
        yield "its result would overwrite the whole document: give a ResultPath below $"
    yield from _parameter_problems(state)


def _wait_problems(state: Mapping[str, Any]) -> Iterator[str]:
    given = [key for key in ("Seconds", "SecondsPath", "Timestamp", "TimestampPath") if key in state]
    if len(given) != 1:
        yield "needs either Seconds or SecondsPath, or one of Timestamp and TimestampPath"
    if "Seconds" in state and not _is_positive(state["Seconds"]):
        yield "Seconds is not a positive number"
    if "Timestamp" in state:
        try:
            choice.timestamp(state["Timestamp"])
        except (TypeError, ValueError):
            yield f"{state['Timestamp']!r} is no time stamp"


def _fail_problems(state: Mapping[str, Any]) -> Iterator[str]:
    for key in ("Error", "Cause"):
        if key in state and f"{key}Path" in state:
            yield f"takes only one of {key} and {key}Path"


_KIND_PROBLEMS = {
    "Action": _action_problems,
    "Choice": _choice_problems,
    "ExpressionEval": _expression_problems,
    "Fail": _fail_problems,
    "Pass": _pass_problems,
    "Wait": _wait_problems,
}


def _parameter_problems(state: Mapping[str, Any]) -> Iterator[str]:
    parameters = state.get("Parameters", {})
    if not isinstance(parameters, dict):
        yield "its Parameters are not an object"
        return
    private = parameters.get(PRIVATE, [])
    names = {str(key).removesuffix(".$").removesuffix(".=") for key in parameters}
    if not _are_texts(private):
        yield f"{PRIVATE} is not a list of names"
    else:
        yield from (f"{PRIVATE} names {name!r}, which is no parameter" for name in private if name not in names)


def _path_problems(state: Mapping[str, Any]) -> Iterator[str]:
    catches = [catch["ResultPath"] for catch in _list(state.get("Catch")) if _has_path(catch)]
    paths = [state[key] for key in _PATH_KEYS if key in state] + references(state.get("Parameters")) + catches
    for path in paths:
        yield from _fault(parse, path)
    for expression in references(state.get("Parameters"), ".="):
        yield from _fault(expressions.check, expression)


def _fault(check: Any, value: Any) -> Iterator[str]:
    try:
        check(value)
    except PathError as error:
        yield str(error)


def _ways(start: str, states: Mapping[str, Any]) -> Iterator[str]:
    """States that no run comes to, and states from which no run ends."""
    reached = _closure({start}, {name: set(targets(state)) for name, state in states.items()})
    yield from (f"state {name}: cannot be reached" for name in states if name not in reached)
    ends = {name for name, state in states.items() if state.get("End") or state["Type"] == "Fail"}
    before: dict[str, set[str]] = {name: set() for name in states}
    for name, state in states.items():
        for to in targets(state):
            before[to].add(name)
    ending = _closure(ends, before)
    yield from (f"state {name}: a run that comes here never ends" for name in states if name not in ending)


def _closure(begin: set[str], leads: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(begin)
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += leads[name]
    return seen


def _is_state(name: Any, states: Mapping[str, Any]) -> bool:
    return isinstance(name, str) and name in states


def _is_positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < float("inf")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _has_path(catch: Any) -> bool:
    return isinstance(catch, dict) and "ResultPath" in catch
