"""Figures with their aims, the machine they were measured on, and how they are written down."""

import json
import os
import platform
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

END = "<!-- end -->"
_PACKAGES = ("numpy", "onnxruntime", "openvino", "torch", "tensorrt", "pvapy", "p4p", "caproto")


@dataclass(frozen=True)
class Aim:
    """What a figure should reach: `sign` is >=, <= or <."""

    sign: str
    limit: float

    def met(self, value: float) -> bool:
        """Whether a value reaches it."""
        compare = {">=": value >= self.limit, "<=": value <= self.limit, "<": value < self.limit}
        return compare[self.sign]

    def __str__(self) -> str:
        return f"{self.sign} {self.limit:g}"


def at_least(limit: float) -> Aim:
    """The figure should be `limit` or more."""
    return Aim(">=", limit)


def at_most(limit: float) -> Aim:
    """The figure should be `limit` or less."""
    return Aim("<=", limit)


def under(limit: float) -> Aim:
    """The figure should be less than `limit`."""
    return Aim("<", limit)


@dataclass(frozen=True)
class Figure:
    """One figure: spread is the lowest and highest of its repetitions, detail what else was measured with it.

    value: None when it could not be measured; `note` then says why.
    """

    key: str
    value: float | None
    unit: str
    aim: Aim | None = None
    spread: tuple[float, float] | None = None
    note: str = ""
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the aim is met; None without an aim."""
        if self.aim is None:
            return None
        return self.value is not None and self.aim.met(self.value)

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {
            "value": self.value,
            "unit": self.unit,
            "aim": None if self.aim is None else str(self.aim),
            "met": self.met,
            "spread": self.spread,
            "note": self.note,
            "detail": self.detail,
        }


def has_bfloat16() -> bool:
    """Whether the processor computes in bfloat16."""
    return bool({"avx512_bf16", "amx_bf16"} & _cpu_flags())


def machine() -> dict[str, Any]:
    """The machine and the versions, and how busy the machine is before anything is measured."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "bfloat16": has_bfloat16(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
    }


def beginning(command: str) -> str:
    """The line of the document after which a command's table stands."""
    return f"<!-- written by {command}: begin -->"


def write(
    figures: list[Figure], about: dict[str, Any], *, command: str, results: Path, document: Path, seconds: float
) -> None:
    """Write the JSON file and the table in the document, where that has the place of the `command`."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    content = {
        "measured": when,
        "seconds": round(seconds),
        "machine": about,
        "figures": {figure.key: figure.to_json() for figure in figures},
    }
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(content, indent=1) + "\n")
    text = document.read_text()
    begin = beginning(command)
    head, _, rest = text.partition(begin)
    tail = rest.partition(END)[2]
    document.write_text(f"{head}{begin}\n{_caption(when, about)}\n\n{table(figures)}\n{END}{tail}")


def table(figures: list[Figure]) -> str:
    """The figures as a Markdown table."""
    lines = ["| figure | measured | spread | aim | met |", "| --- | --- | --- | --- | --- |"]
    for figure in figures:
        spread = "" if figure.spread is None else " to ".join(map(_short, figure.spread))
        met = {True: "yes", False: "no", None: ""}[figure.met]
        lines.append(f"| `{figure.key}` | {_said(figure)} | {spread} | {figure.aim or ''} | {met} |")
    return "\n".join(lines)


def _said(figure: Figure) -> str:
    if figure.value is None:
        return figure.note or "not measured"
    value = f"{_short(figure.value)} {figure.unit}".strip()
    return f"{value} ({figure.note})" if figure.note else value


def _caption(when: str, about: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    load = about["load_average_before"][0]
    return (
        f"Measured {when} on {about['cpu']}, {about['cores']} cores, load average {load} before; "
        f"Python {about['python']}, {versions}."
    )


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _cpu_model() -> str:
    for line in _cpu_info():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _cpu_flags() -> set[str]:
    for line in _cpu_info():
        if line.startswith("flags"):
            return set(line.partition(":")[2].split())
    return set()


def _cpu_info() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return []
