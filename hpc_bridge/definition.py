"""A flow definition in the JSON dialect of Globus Flows: loading it and checking it without any service."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from hpc_bridge.errors import DefinitionError
from hpc_bridge.lint import problems


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
        return FlowDefinition.from_json(json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique))
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


def deployable(name: str, run_flow: Path | None = None) -> FlowDefinition:
    """Return the flow that an installation has under a name: one of ours, or for scans the facility's own."""
    return load(run_flow) if run_flow is not None and name == "run" else shipped(name)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of a file, of which no key may come twice: one of the two would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise DefinitionError(f"the key {key!r} comes twice")
        found[key] = value
    return found
