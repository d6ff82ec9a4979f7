"""Calls from a job to the workflow IOC through a folder: how a flow that runs elsewhere registers its model.

A request is ``NAME.request.json``, its answer ``NAME.answer.json``; both appear whole. The IOC may be down when the
request is left: it answers when it is back, and a job that asks again finds the answer that was given.
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path

from hpc_bridge.errors import TaskFailed, TaskTimeout
from hpc_bridge.ports import Json
from phasing.files import replaced_file

POLL_S = 0.2
_REQUEST, _ANSWER = ".request.json", ".answer.json"


@dataclass(frozen=True)
class Letter:
    """A request that waits for its answer."""

    name: str
    body: Json


def register(*, request: str, inbox: str, timeout_s: float = 3000.0, **body: object) -> Json:
    """Ask the IOC whose ``inbox`` this is to register a model, and wait for what its gate says; a job.

    ``request`` names the call: the same one again is the same request. Raises TaskFailed with the IOC's refusal,
    TaskTimeout when there is no answer in time.
    """
    mailbox = Mailbox(Path(inbox))
    mailbox.ask(request, body)
    deadline_s = time.monotonic() + timeout_s
    while (answer := mailbox.answer_of(request)) is None:
        if time.monotonic() >= deadline_s:
            raise TaskTimeout(f"the workflow IOC has not answered {request} within {timeout_s:g} s")
        time.sleep(POLL_S)
    if "error" in answer:
        raise TaskFailed(str(answer["error"]))
    return dict(answer["output"])


class Mailbox:
    """The folder as both sides see it."""

    def __init__(self, folder: Path) -> None:
        """Make the folder where it does not exist yet."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def ask(self, name: str, body: Json) -> None:
        """Leave a request, unless it lies there already; one that was refused is asked again.

        Raises TaskFailed for a name that is none.
        """
        path, answered = self._path(name, _REQUEST), self.answer_of(name)
        if answered is not None and "error" in answered:
            self._path(name, _ANSWER).unlink(missing_ok=True)
        if not path.exists():
            _write(path, body)

    def answer_of(self, name: str) -> Json | None:
        """Return the answer to a request; None while there is none."""
        return _read(self._path(name, _ANSWER))

    def waiting(self) -> list[Letter]:
        """Return the requests without an answer, the oldest first."""
        paths = [path for path in self._folder.glob(f"*{_REQUEST}") if not self._answer_path(path).exists()]
        letters = [(path, _read(path)) for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]
        return [Letter(path.name.removesuffix(_REQUEST), body) for path, body in letters if body is not None]

    def answer(self, name: str, *, output: Json | None = None, error: str | None = None) -> None:
        """Answer a request, with what came of it or with why nothing did."""
        _write(self._path(name, _ANSWER), {"output": output} if error is None else {"error": error})

    def _path(self, name: str, suffix: str) -> Path:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise TaskFailed(f"{name!r} is no name of a request")
        return self._folder / f"{name}{suffix}"

    @staticmethod
    def _answer_path(request: Path) -> Path:
        return request.with_name(f"{request.name.removesuffix(_REQUEST)}{_ANSWER}")


def _write(path: Path, body: Json) -> None:
    with replaced_file(path) as part:
        part.write_text(json.dumps(body), encoding="utf-8")


def _read(path: Path) -> Json | None:
    """What stands in a file; None when it is not there, or is not ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) else None
