"""A record: the one state of a PV, which both protocols mirror, and what a client's put to it means."""

import asyncio
import logging
import reprlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from iocs import alarms
from iocs.coerce import Refused, coerce, cut, max_bytes
from phasing.errors import PhaselineError
from pvdb.model import TEXT, Pv, Role, Severity

log = logging.getLogger("phaseline.put")
__all__ = ["ActionFailed", "Reading", "Record", "Refused", "settled"]


class ActionFailed(PhaselineError):
    """An action that began and failed; Channel Access completes normally with an alarm, pvAccess carries the text."""


@dataclass(frozen=True)
class Reading:
    """What a PV shows: value, alarm and Unix time in seconds."""

    value: Any
    severity: Severity
    message: str
    time_s: float

    @property
    def stamp(self) -> tuple[int, int]:
        """Unix time as whole seconds and nanoseconds, the same on both protocols."""
        seconds = int(self.time_s)
        return seconds, int((self.time_s - seconds) * 1e9)


Accept = Callable[[Any], Awaitable[Any]]
"""Handler of a setpoint: takes the checked value, returns the value that holds from now on (None: the one put)."""
Run = Callable[[], Coroutine[Any, Any, None]]
"""Handler of an action: returns when it is done; is cancelled when 0 is put."""
Result = TypeVar("Result")


class Record:
    """One PV's state and handlers; lives in the event loop's thread."""

    def __init__(self, pv: Pv, name: str) -> None:
        """`name` is the full name with the prefix."""
        self.pv, self.name = pv, name
        self.readback: Record | None = None
        self.message: Record | None = None
        self.accept: Accept | None = None
        self.run: Run | None = None
        self.listeners: list[Callable[[Reading], None]] = []
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        value = pv.initial if pv.initial is not None else ""
        self.reading = Reading(value, alarms.severity(self.pv, value), "", time.time())

    def post(
        self, value: Any, *, severity: Severity | None = None, message: str = "", time_s: float | None = None
    ) -> None:
        """Show a new value; the severity is the declaration's for that value, or `severity` where that is higher.

        A text that is longer than the PV is cut: a long error message must not be lost for its length.
        """
        if self.pv.kind in TEXT:
            value = cut(value, max_bytes(self.pv))
        own = alarms.severity(self.pv, value)
        worst = own if severity is None else max(own, severity)
        self.reading = Reading(value, worst, message, time.time() if time_s is None else time_s)
        for listener in self.listeners:
            listener(self.reading)

    async def put(self, raw: Any, peer: str) -> None:
        """Do what a client asks by putting `raw`; raises Refused or ActionFailed with the reason, nothing else."""
        old = self.reading.value
        try:
            if self.pv.role is Role.READBACK:
                raise Refused("read-only")
            value = coerce(self.pv, raw)
            await (self._act(value) if self.pv.role is Role.ACTION else self._set(value))
        except (Refused, ActionFailed) as error:
            log.warning("%s: put %s by %s: %s", self.name, reprlib.repr(raw), peer, error)
            self.tell(f"{self.pv.name}: {error}", Severity.MAJOR if isinstance(error, ActionFailed) else Severity.MINOR)
            raise
        log.info("%s: %s -> %s by %s", self.name, reprlib.repr(old), reprlib.repr(self.reading.value), peer)

    def tell(self, text: str, severity: Severity = Severity.NO_ALARM) -> None:
        """Write the area's Message PV."""
        if self.message is not None:
            self.message.post(text, severity=severity, message=text if severity else "")

    async def stop(self) -> None:
        """End a running action: it is cancelled at once; return when it has ended."""
        task = self._task
        if task is not None:
            if not task.cancelling():  # once: a second cancel would end what the action does to end well
                task.cancel()
            await asyncio.wait({task})

    async def _set(self, value: Any) -> None:
        async with self._lock:
            if self.accept is not None:
                try:
                    accepted = await settled(self.accept(value), otherwise=Refused)
                except ActionFailed as error:
                    self.post(self.reading.value, severity=Severity.MAJOR, message=str(error))
                    raise
                value = value if accepted is None else accepted
            self._show(value)

    async def _act(self, value: int) -> None:
        if value == 0:
            await self.stop()
            return
        if self.run is None:
            raise Refused("this action is not available")
        if self._task is not None:
            raise Refused("already running")
        self._show(1)
        self._task = task = asyncio.create_task(settled(self.run(), otherwise=ActionFailed))
        task.add_done_callback(self._end)  # not after the wait below: an action outlives the client that started it
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def _end(self, task: asyncio.Task[None]) -> None:
        """Show how the action ended; a stopped one ends well, for it did what the client asked."""
        self._task = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            self._show(0)
        else:
            self._show(0, severity=Severity.MAJOR, message=str(error))

    def _show(self, value: Any, *, severity: Severity | None = None, message: str = "") -> None:
        self.post(value, severity=severity, message=message)
        if self.readback is not None:
            self.readback.post(value)


async def settled(work: Awaitable[Result], *, otherwise: type[Refused] | type[ActionFailed]) -> Result:
    """What a handler returns; what it raises becomes Refused or ActionFailed, so that its client gets an answer.

    An error that is no PhaselineError is a fault of ours: it is logged whole and told by its name.
    """
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait({task})
        if task.cancelled():
            raise
    error = task.exception()
    if error is None or isinstance(error, Refused | ActionFailed):
        return task.result()
    if isinstance(error, PhaselineError):
        raise otherwise(str(error)) from error
    log.error("a handler failed", exc_info=error)
    raise otherwise(f"internal error, {type(error).__name__}: {error}") from error
