"""The rules of a Choice state: comparisons of what stands at a path, joined by And, Or and Not."""

import fnmatch
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from hpc_bridge.paths import PathError, parse, read

Rule = Mapping[str, Any]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TESTS: dict[str, Callable[[Any], bool]] = {
    "IsNull": lambda value: value is None,
    "IsNumeric": _is_number,
    "IsString": lambda value: isinstance(value, str),
    "IsBoolean": lambda value: isinstance(value, bool),
}
_KINDS: dict[str, Callable[[Any], bool]] = {
    "String": _TESTS["IsString"],
    "Numeric": _is_number,
    "Boolean": _TESTS["IsBoolean"],
    "Timestamp": _TESTS["IsString"],
}
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": operator.eq,
    "LessThan": operator.lt,
    "GreaterThan": operator.gt,
    "LessThanEquals": operator.le,
    "GreaterThanEquals": operator.ge,
}
_COMPARISONS = {
    kind + order: (kind, order) for kind in _KINDS for order in _ORDERS if kind != "Boolean" or order == "Equals"
}
OPERATORS = {*_TESTS, *_COMPARISONS, *(name + "Path" for name in _COMPARISONS), "IsPresent", "StringMatches"}
_KEYWORDS = {"Variable", "Next", "And", "Or", "Not", "Comment"}


def holds(rule: Rule, document: Mapping[str, Any]) -> bool:
    """Tell whether the rule is true of the document. Raises PathError when a path it reads leads nowhere."""
    if "And" in rule:
        return all(holds(part, document) for part in rule["And"])
    if "Or" in rule:
        return any(holds(part, document) for part in rule["Or"])
    if "Not" in rule:
        return not holds(rule["Not"], document)
    name = next(key for key in rule if key in OPERATORS)
    if name == "IsPresent":
        return _present(document, rule["Variable"]) is bool(rule[name])
    return _compare(name, read(document, rule["Variable"]), rule[name], document)


def _present(document: Mapping[str, Any], path: str) -> bool:
    try:
        read(document, path)
    except PathError:
        return False
    return True


def _compare(name: str, value: Any, wanted: Any, document: Mapping[str, Any]) -> bool:
    if name in _TESTS:
        return _TESTS[name](value) is bool(wanted)
    if name == "StringMatches":
        return isinstance(value, str) and fnmatch.fnmatchcase(value, wanted)
    if name.endswith("Path"):
        name, wanted = name.removesuffix("Path"), read(document, wanted)
    kind, order = _COMPARISONS[name]
    if not (_KINDS[kind](value) and _KINDS[kind](wanted)):
        return False
    if kind == "Timestamp":
        value, wanted = timestamp(value), timestamp(wanted)
    return _ORDERS[order](value, wanted)


def timestamp(text: str) -> datetime:
    """Read a time stamp; one without a time zone is UTC. Raises ValueError."""
    found = datetime.fromisoformat(text)
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def problems(rule: Any) -> list[str]:
    """List what makes a rule unusable, for the offline check."""
    if not isinstance(rule, Mapping):
        return ["a rule is not an object"]
    joined = [key for key in ("And", "Or") if key in rule]
    if joined:
        parts = rule[joined[0]]
        return [text for part in parts for text in problems(part)] if isinstance(parts, list) else ["needs a list"]
    if "Not" in rule:
        return problems(rule["Not"])
    names = [key for key in rule if key not in _KEYWORDS]
    if len(names) != 1 or names[0] not in OPERATORS:
        return [f"a rule needs exactly one known comparison, not {', '.join(map(str, names)) or 'none'}"]
    paths = [rule.get("Variable", "")] + ([rule[names[0]]] if names[0].endswith("Path") else [])
    return [text for path in paths for text in _path_problems(path)] + _operand_problems(names[0], rule[names[0]])


def _operand_problems(name: str, operand: Any) -> list[str]:
    if name == "StringMatches" and not isinstance(operand, str):
        return ["StringMatches needs a text"]
    if name in _COMPARISONS:
        kind = _COMPARISONS[name][0]
        if not _KINDS[kind](operand):
            return [f"{name} cannot compare with {operand!r}"]
        if kind == "Timestamp":
            try:
                timestamp(operand)
            except ValueError:
                return [f"{operand!r} is no time stamp"]
    return []


def _path_problems(path: Any) -> list[str]:
    try:
        parse(str(path))
    except PathError as error:
        return [str(error)]
    return []
