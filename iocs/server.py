"""One IOC: its records, served over Channel Access and pvAccess from one process and one event loop."""

import asyncio
import importlib.metadata
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from iocs import channel_access, pv_access
from iocs.record import Accept, Record, Run
from iocs.search import find_server
from phasing.errors import PhaselineError
from pvdb import IOCS, Pv, Role, Severity, full_name, health

log = logging.getLogger("phaseline.ioc")
TWIN_TIMEOUT_S = 0.4


class StartError(PhaselineError):
    """An IOC that cannot start: a port or a name is taken."""


class IocServer:
    """Serves the declared PVs of one IOC and hands clients' puts to the handlers registered for them."""

    def __init__(self, ioc: str, area: str, prefix: str, renames: Mapping[str, str] | None = None) -> None:
        """`ioc` names the set of declarations, `area` that of its health PVs; must be made inside the event loop."""
        self.loop = asyncio.get_running_loop()
        self.stopping = asyncio.Event()
        self._thread = threading.get_ident()
        self._area = area
        self._names = {pv: full_name(prefix, pv, renames) for pv in IOCS[ioc]}
        self._records = {pv: Record(pv, name) for pv, name in self._names.items()}
        self._procedures: dict[str, pv_access.Procedure] = {}
        by_name = {pv.name: record for pv, record in self._records.items()}
        for pv, record in self._records.items():
            if pv.role is not Role.READBACK:
                record.readback = by_name[f"{pv.name}_RBV"]
            record.message = by_name.get(pv.message or "")

    def name(self, pv: Pv) -> str:
        """The full name of a PV."""
        return self._names[pv]

    def value(self, pv: Pv) -> Any:
        """The value a PV shows now."""
        return self._records[pv].reading.value

    def on_set(self, pv: Pv, accept: Accept) -> None:
        """Register the handler of a setpoint; without one the value is simply taken."""
        self._records[pv].accept = accept

    def on_action(self, pv: Pv, run: Run) -> None:
        """Register the handler of an action."""
        self._records[pv].run = run

    def on_call(self, pv: Pv, procedure: pv_access.Procedure) -> None:
        """Register a remote procedure."""
        self._procedures[self._names[pv]] = procedure

    def listen(self, pv: Pv, listener: Callable[[Any], None]) -> None:
        """Call `listener` with every new value of a PV, in the event loop."""
        self._records[pv].listeners.append(lambda reading: listener(reading.value))

    def post(self, pv: Pv, value: Any, *, severity: Severity | None = None, message: str = "") -> None:
        """Show a value; safe from any thread. A setpoint's read-back follows it."""
        if threading.get_ident() == self._thread:
            self._post(pv, value, severity, message)
        else:
            self.loop.call_soon_threadsafe(self._post, pv, value, severity, message)

    def _post(self, pv: Pv, value: Any, severity: Severity | None, message: str) -> None:
        record = self._records[pv]
        record.post(value, severity=severity, message=message)
        if record.readback is not None:
            record.readback.post(value)

    def tell(self, message_pv: Pv, text: str, severity: Severity = Severity.NO_ALARM) -> None:
        """Write an area's Message PV and the log."""
        log.log(logging.WARNING if severity else logging.INFO, "%s: %s", message_pv.name, text)
        self.post(message_pv, text, severity=severity, message=text if severity else "")

    async def serve(
        self, ready: Callable[[], None] | None = None, *, beside: Iterable[Callable[[], Coroutine[Any, Any, None]]] = ()
    ) -> None:
        """Serve until SIGTERM, SIGINT or `stopping`; StartError when a port or the prefix is taken.

        What runs `beside` begins when it is sure that no other IOC has the prefix, and ends with the serving.
        """
        for signum in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(signum, self.stopping.set)
        await self._refuse_a_twin()
        bound = asyncio.Event()
        server = channel_access.Server(channel_access.Database(self._by_name()))
        tasks = {
            asyncio.create_task(work)
            for work in (
                server.serve(bound.set),
                self._serve_pv_access(bound, ready),
                self._beat(),
                self.stopping.wait(),
                *(work() for work in beside),
            )
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            _raise_failure(done, server.ca_server_port)
        finally:
            await asyncio.gather(*(record.stop() for record in self._records.values()))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _by_name(self) -> dict[str, Record]:
        return {record.name: record for record in self._records.values()}

    async def _refuse_a_twin(self) -> None:
        """StartError when another IOC answers to our names: clients would reach one of the two at random."""
        name = self.name(health.named(self._area)[health.HEARTBEAT])
        host = await find_server(name, TWIN_TIMEOUT_S)
        if host is not None:
            raise StartError(f"{name} is served already, by {host}: stop that IOC or choose another prefix")

    async def _serve_pv_access(self, bound: asyncio.Event, ready: Callable[[], None] | None) -> None:
        """Serve pvAccess, where p4p is installed, once Channel Access is served."""
        await bound.wait()
        pva = pv_access.PvAccess(self._by_name(), self._procedures) if pv_access.available() else None
        try:
            if pva is not None:
                _start(pva)
            if ready is not None:
                ready()
            await asyncio.Event().wait()
        finally:
            if pva is not None:
                pva.stop()

    async def _beat(self) -> None:
        """Keep the health PVs alive."""
        pvs = health.named(self._area)
        self.post(pvs[health.VERSION], importlib.metadata.version("phaseline"))
        self.post(pvs[health.HOST], socket.gethostname()[:39])
        self.post(pvs[health.PROCESS_ID], os.getpid())
        started = time.monotonic()
        beat = 0
        while True:
            self.post(pvs[health.HEARTBEAT], beat)
            self.post(pvs[health.UPTIME], time.monotonic() - started)
            beat += 1
            await asyncio.sleep(1.0)


def _start(pva: pv_access.PvAccess) -> None:
    try:
        pva.start()
    except RuntimeError as error:  # what p4p makes of an operating system's refusal
        port = os.environ.get("EPICS_PVAS_BROADCAST_PORT", "5076")
        raise StartError(f"pvAccess port {port} cannot be had: {error}") from error


def _raise_failure(done: set[asyncio.Task[Any]], ca_port: int) -> None:
    """Raise what ended a serving task."""
    for task in done:
        error = task.exception()
        if isinstance(error, OSError):
            raise StartError(f"Channel Access port {ca_port} cannot be had: {error.strerror}") from error
        if error is not None:
            raise error
