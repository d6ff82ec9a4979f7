"""Expressions of the flow dialect: `"name.=": "'/~/' + scan.name"`, over the properties of a run's document.

Operators and literals are Python's; `a.b[0]` reads the document; the functions are those of the service.
"""

from collections.abc import Mapping
from typing import Any

from simpleeval import EvalWithCompoundTypes, InvalidExpression

from hpc_bridge.paths import PathError, read

_FAILURES = (InvalidExpression, SyntaxError, ArithmeticError, ValueError, TypeError, LookupError, RecursionError)


def compute(expression: str, document: Mapping[str, Any]) -> Any:
    """Return the value of an expression. Raises PathError naming the expression when it has none."""

    def is_present(path: str) -> bool:
        try:
            read(document, f"$.{path}")
        except PathError:
            return False
        return True

    def get(path: str, default: Any = None) -> Any:
        return read(document, f"$.{path}") if is_present(path) else default

    functions = {
        "is_present": is_present,
        "getattr": get,
        "pathsplit": _pathsplit,
        "len": len,
        "str": str,
        "int": int,
        "float": float,
    }
    try:
        return EvalWithCompoundTypes(names=dict(document), functions=functions).eval(_python(expression))
    except _FAILURES as error:
        raise PathError(f"the expression {expression!r} fails: {error}") from error


def check(expression: Any) -> None:
    """Raise PathError for an expression that cannot be one."""
    if not isinstance(expression, str) or not expression.strip():
        raise PathError(f"the expression {expression!r} is not a text")
    try:
        EvalWithCompoundTypes.parse(_python(expression))
    except _FAILURES as error:
        raise PathError(f"the expression {expression!r} cannot be understood: {error}") from error


def _python(expression: str) -> str:
    """Without the backticks that may stand around a property's name."""
    return expression.replace("`", "")


def _pathsplit(path: str) -> list[str]:
    """A path's folder and its last part; the home folder of a collection is a folder."""
    if path.startswith("/~/") and "/" not in path[3:]:
        return ["/~/", path[3:]]
    folder, _, name = path.rpartition("/")
    return [folder, name]
