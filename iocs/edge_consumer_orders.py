"""What the edge and its consumers tell each other: JSON over control and status channels of pvapy's framework."""

import dataclasses
import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from iocs.edge_messages import Settings
from iocs.edge_models import Announcement, KeptModel
from iocs.edge_trial import Candidate
from phasing.engines import EngineOptions

OUTCOME, REASON, VERSION = "EdgeOutcome", "EdgeReason", "ModelVersion"
"""Attributes that a consumer adds to a frame: what became of it, why, and by which model."""


class Became(StrEnum):
    """What became of a frame in a consumer; all but the predicted are passed on without their pixels."""

    PREDICTED = "predicted"
    EMPTY = "empty"
    REJECTED = "rejected"
    NO_MODEL = "no model"
    DROPPED = "dropped"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Channels:
    """Names of one set-up's channels; the framework puts a consumer's number in place of the star."""

    base: str

    @property
    def mirror(self) -> str:
        """Frames of a detector whose server has no distributor."""
        return f"{self.base}Frames"

    @property
    def merged(self) -> str:
        """What all consumers put out, in the order of ids."""
        return f"{self.base}Merged"

    @property
    def merged_status(self) -> str:
        """The collector's status."""
        return f"{self.base}MergedStatus"

    @property
    def merged_control(self) -> str:
        """The collector's control channel."""
        return f"{self.base}MergedControl"

    @property
    def output(self) -> str:
        """A consumer's output."""
        return f"{self.base}Consumer*:Output"

    @property
    def status(self) -> str:
        """A consumer's status."""
        return f"{self.base}Consumer*:Status"

    @property
    def control(self) -> str:
        """A consumer's control channel."""
        return f"{self.base}Consumer*:Control"


@dataclass(frozen=True)
class Orders:
    """All that a consumer is to do, so that the newest replaces whatever was said before.

    `models` are built as soon as they are named, `live` (an announcement) is the one that serves; `begun` lets frames
    through: before the collector hears a consumer, what it puts out would be lost.
    """

    serial: int
    settings: Settings
    models: tuple[Candidate, ...] = ()
    live: str = ""
    begun: bool = False

    def to_json(self) -> str:
        """As text, without the frames that a model was tried on."""
        return json.dumps(
            {
                "serial": self.serial,
                "settings": dataclasses.asdict(self.settings),
                "models": [_spec(candidate) for candidate in self.models],
                "live": self.live,
                "begun": self.begun,
            }
        )

    @classmethod
    def from_dict(cls, said: dict[str, Any]) -> "Orders":
        """Undo to_json, from what JSON gives."""
        models = tuple(_candidate(spec) for spec in said["models"])
        return cls(said["serial"], Settings(**said["settings"]), models, said["live"], said["begun"])


@dataclass(frozen=True)
class Answer:
    """How far a consumer is: the orders it follows, the models it has built, those it cannot (reasons by name)."""

    serial: int = -1
    built: tuple[str, ...] = ()
    refused: dict[str, str] = dataclasses.field(default_factory=dict)
    live: str = ""
    begun: bool = False
    engine: str = ""
    difference_rad: float | None = None
    remark: str = ""

    def to_json(self) -> str:
        """As text."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Answer":
        """Undo to_json; an empty text is the answer of a consumer that has not said anything."""
        said = json.loads(text) if text else {}
        return cls(**(said | {"built": tuple(said.get("built", ()))}))


def _spec(candidate: Candidate) -> dict[str, Any]:
    kept = candidate.kept
    options = dataclasses.asdict(candidate.options)
    return {
        "announcement": str(kept.announcement),
        "onnx": str(kept.onnx),
        "card": str(kept.card),
        "options": options | {"cache": None if options["cache"] is None else str(options["cache"])},
    }


def _candidate(spec: dict[str, Any]) -> Candidate:
    kept = KeptModel(Announcement.parse(spec["announcement"]), Path(spec["onnx"]), Path(spec["card"]))
    options = dict(spec["options"])
    cache = options.pop("cache")
    providers = tuple(options.pop("providers"))
    made = EngineOptions(**options, providers=providers, cache=None if cache is None else Path(cache))
    return Candidate(kept, made, ())
