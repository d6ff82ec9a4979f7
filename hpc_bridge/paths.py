"""Reading and writing a run's document by the JSONPath subset of the flow dialect: $.a.b[0]['c']."""

import copy
import re
from collections.abc import Callable, Mapping
from typing import Any

from hpc_bridge.errors import BridgeError
from hpc_bridge.ports import Json

_TOKEN = re.compile(r"\.([A-Za-z_][\w\-]*)|\[(\d+)\]|\['([^']+)'\]")
CONTEXT = "_context"
PRIVATE = "__Private_Parameters"
Compute = Callable[[str, Mapping[str, Any]], Any]
"""Gives the value of an expression over a document."""


class PathError(BridgeError):
    """A JSONPath that is malformed or leads nowhere in this document."""


def parse(path: Any) -> tuple[str | int, ...]:
    """Split a JSONPath into its keys; ``$`` alone gives (). Raises PathError for anything outside the subset."""
    if not isinstance(path, str) or not path.startswith("$"):
        raise PathError(f"the path {path!r} does not start with $")
    keys: list[str | int] = []
    at = 1
    while at < len(path):
        token = _TOKEN.match(path, at)
        if token is None:
            raise PathError(f"the path {path!r} cannot be understood from {path[at:]!r} on")
        keys.append(int(token[2]) if token[2] else token[1] or token[3])
        at = token.end()
    return tuple(keys)


def read(document: Mapping[str, Any], path: str) -> Any:
    """Return what stands at the path. Raises PathError naming the path when nothing does."""
    found: Any = document
    for key in parse(path):
        fits = isinstance(found, list) if isinstance(key, int) else isinstance(found, Mapping)
        if not fits:
            raise PathError(f"{path} leads nowhere: {key!r} is asked of {type(found).__name__}")
        try:
            found = found[key]
        except (KeyError, IndexError):
            raise PathError(f"{path} leads nowhere: there is no {key!r}") from None
    return found


def write(document: Json, path: str, value: Any) -> Json:
    """Return a copy of the document with the value at the path, making the objects on the way to it.

    Raises PathError where the path crosses a list or a plain value, or would overwrite the run's context.
    """
    keys = parse(path)
    if not keys:
        if not isinstance(value, dict):
            raise PathError("only an object can replace the whole document")
        return copy.deepcopy(value)
    if keys[0] == CONTEXT:
        raise PathError(f"{path} would overwrite the run's context")
    result = copy.deepcopy(document)
    at: Any = result
    for key in keys[:-1]:
        at = at.setdefault(key, {}) if isinstance(at, dict) else None
    if not isinstance(at, dict) or isinstance(keys[-1], int):
        raise PathError(f"{path} cannot be written: it crosses something that is not an object")
    at[keys[-1]] = copy.deepcopy(value)
    return result


def evaluate(template: Any, document: Mapping[str, Any], compute: Compute) -> Any:
    """Fill a Parameters template.

    Each key ``name.$`` becomes ``name`` with what stands at its path, each key ``name.=`` becomes ``name`` with what
    ``compute`` makes of its expression; the list of names that the service keeps secret is no part of the result.
    """
    if isinstance(template, list):
        return [evaluate(item, document, compute) for item in template]
    if not isinstance(template, dict):
        return template
    entries = ((key, value) for key, value in template.items() if key != PRIVATE)
    return dict(_entry(key, value, document, compute) for key, value in entries)


def _entry(key: str, value: Any, document: Mapping[str, Any], compute: Compute) -> tuple[str, Any]:
    if key.endswith(".$"):
        return key[:-2], copy.deepcopy(read(document, str(value)))
    if key.endswith(".="):
        return key[:-2], copy.deepcopy(compute(str(value), document))
    return key, evaluate(value, document, compute)


def references(template: Any, ending: str = ".$") -> list[Any]:
    """List every path that a Parameters template reads, or with the ending ``.=`` every expression."""
    if isinstance(template, list):
        return [path for item in template for path in references(item, ending)]
    if not isinstance(template, dict):
        return []
    found: list[Any] = []
    for key, value in template.items():
        found += [value] if key.endswith(ending) else references(value, ending)
    return found
