"""The edge IOC: the controls beside the stream process, and the models that it serves."""

import asyncio
import functools
import logging
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from iocs import edge_stream
from iocs.config import Config
from iocs.edge_commands import Commands
from iocs.edge_display import EdgeDisplay
from iocs.edge_messages import (
    Command,
    Event,
    Failed,
    Mark,
    ModelDropped,
    ModelRefused,
    Note,
    Reset,
    Settings,
    Status,
    Stop,
    StreamConfig,
    Swapped,
    WasReset,
)
from iocs.edge_models import ModelStore
from iocs.edge_succession import Succession
from iocs.live_maps import MapFiles, MapServer
from iocs.server import IocServer
from pvdb import Severity
from pvdb import edge as pvs

log = logging.getLogger("phaseline.edge")

RESTART_DELAY_S = 1.0
LOOK_S = 0.5
SILENT_S = 5.0
HUNG_S = 30.0
"""How long a stream process that says nothing is given: to be in Fault, and to be ended."""
START_S = 60.0
"""How much longer it is given to say something for the first time: libraries are read, consumers started."""
STOP_TIMEOUT_S = 1.0
STOP_RECORDING_TIMEOUT_S = 10.0
"""How long a stream process may take to end a recording well; killed, it would leave a file to be taken up later."""


class Edge:
    """Owns the stream process and the models that it is given; every control and state is a PV."""

    def __init__(self, config: Config) -> None:
        """Prepare the IOC; nothing is served yet."""
        self._config = config
        self._ioc = IocServer("edge", "Edge", config.prefix)
        self._models = Succession(
            self._ioc,
            ModelStore(config.root / "edge" / "models"),
            config.prefix,
            fetch_s=config.edge.fetch_timeout_s,
            trial_s=config.edge.model_timeout_s,
            send=self._send,
        )
        self._display = EdgeDisplay(self._ioc)
        self._maps_folder = config.root / "edge" / "maps"
        self._map_server = MapServer(self._ioc.name(pvs.MAP), MapFiles(self._maps_folder))
        self._commands: Commands | None = None
        self._process: BaseProcess | None = None
        self._mark = Mark()
        self._heard_s = 0.0
        self._is_silent = False
        self._reason = ""
        self._restarts = 0
        self._stopping = False
        self._had_reset = asyncio.Event()
        self._had_reset.set()
        self._ioc.post(pvs.CONSUMERS, config.edge.consumers)
        self._ioc.post(pvs.BATCH_SIZE, config.edge.batch_size)
        self._ioc.post(pvs.MAX_WAIT, config.edge.max_wait_ms)
        self._ioc.post(pvs.MIN_COUNTS, config.edge.min_counts)
        for pv in (pvs.BATCH_SIZE, pvs.MAX_WAIT, pvs.MIN_COUNTS, pvs.ENABLE, pvs.RECORD):
            self._ioc.listen(pv, self._settings_changed)
        self._ioc.on_action(pvs.RESET, self._reset)

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until told to stop; the last model serves again before the workflow is asked for a newer one."""
        try:
            await self._ioc.serve(ready, beside=(self._supervise, self._watch_over))
        finally:
            self._stopping = True
            self._models.close()
            self._send(Stop())
            await self._ioc.loop.run_in_executor(None, self._end_process)
            self._close_commands()
            self._map_server.stop()

    # the stream process

    async def _supervise(self) -> None:
        """Keep a stream process running; when one dies, say so and start another with the same model."""
        self._models.watch()
        while True:
            ended = asyncio.Event()
            self._start_process(functools.partial(self._ioc.loop.call_soon_threadsafe, ended.set))
            self._models.begin()
            await ended.wait()
            self._close_commands()
            if self._stopping:
                return
            self._stream_died()
            await asyncio.sleep(RESTART_DELAY_S)

    async def _watch_over(self) -> None:
        """Say when the stream process stands still, and end one that does so for long or is stuck with a model."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._commands is None or self._process is None:
                continue
            silent_s = time.monotonic() - self._heard_s
            if silent_s >= SILENT_S and not self._is_silent:
                self._is_silent = True
                self._display.show_fault()
                self._ioc.tell(pvs.MESSAGE, f"the stream process says nothing for {silent_s:.0f} s", Severity.MAJOR)
            if silent_s >= HUNG_S or self._models.overdue:
                self._reason = "it took too long over a model" if self._models.overdue else "it stood still"
                self._process.kill()

    def _stream_died(self) -> None:
        """Say so, and what to go on counting from; a model on its way may be what killed the process."""
        reason, self._reason = self._reason, ""
        self._display.show_fault()
        self._restarts += 1
        self._ioc.post(pvs.RESTARTS, self._restarts)
        why = f" ({reason})" if reason else ""
        self._ioc.tell(pvs.MESSAGE, f"the stream process died{why}; starting another", Severity.MAJOR)
        self._models.ended(f"the stream process died while it was built{why}")
        if not self._had_reset.is_set():
            self._forget_counts()  # it was about to
            self._had_reset.set()

    def _start_process(self, ended: Callable[[], object]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit live pvAccess clients
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=edge_stream.run, args=(self._stream_config(), self._settings(), theirs), name="edge-stream"
        )
        self._process.start()
        theirs.close()
        self._heard_s, self._is_silent = time.monotonic() + START_S, False
        self._commands = Commands(ours)
        threading.Thread(target=self._listen, args=(ours, ended), name="edge-events", daemon=True).start()

    def _listen(self, pipe: Connection, ended: Callable[[], object]) -> None:
        """Carry the stream process's events into the event loop until it ends."""
        while True:
            try:
                event = pipe.recv()
            except (EOFError, OSError):
                ended()
                return
            self._ioc.loop.call_soon_threadsafe(self._handle, event)

    def _end_process(self) -> None:
        if self._process is not None:
            recording = bool(self._ioc.value(pvs.RECORD))
            self._process.join(STOP_RECORDING_TIMEOUT_S if recording else STOP_TIMEOUT_S)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

    def _close_commands(self) -> None:
        """End the writing to a process that has ended."""
        commands, self._commands = self._commands, None
        if commands is not None:
            commands.close()

    def _send(self, command: Command) -> bool:
        """Send to the process if there is one; one that is not started yet gets its settings and its model then."""
        if self._commands is None:
            return False
        self._commands.send(command)
        return True

    def _settings_changed(self, _: Any) -> None:
        self._send(self._settings())

    def _settings(self) -> Settings:
        value = self._ioc.value
        return Settings(
            batch_size=value(pvs.BATCH_SIZE),
            max_wait_s=value(pvs.MAX_WAIT) * 1e-3,
            min_counts=value(pvs.MIN_COUNTS),
            enabled=bool(value(pvs.ENABLE)),
            record=bool(value(pvs.RECORD)),
        )

    def _stream_config(self) -> StreamConfig:
        return StreamConfig(
            edge=self._config.edge,
            source=self._config.stream,
            phase=self._ioc.name(pvs.PHASE),
            stitched=self._ioc.name(pvs.STITCHED),
            input=self._ioc.name(pvs.INPUT),
            scan_pv=self._config.scan_pv,
            expected_pv=self._config.expected_pv,
            engine_cache=self._config.root / "edge" / "engines",
            recordings=self._config.recordings,
            maps=self._maps_folder,
            former=self._mark,
        )

    # events of the stream process

    def _handle(self, event: Event) -> None:
        if isinstance(event, Status):
            self._show(event)
        elif isinstance(event, Swapped):
            self._models.swapped(event)
        elif isinstance(event, ModelRefused):
            self._models.refused(event)
        elif isinstance(event, ModelDropped):
            self._models.dropped(event)
        elif isinstance(event, WasReset):
            self._had_reset.set()
        elif isinstance(event, Failed):
            self._reason = event.reason
            self._display.show_fault()
        else:
            self._note(event)

    def _note(self, note: Note) -> None:
        self._ioc.tell(pvs.MESSAGE, note.text, note.severity)

    def _show(self, status: Status) -> None:
        self._mark = status.mark
        self._heard_s = time.monotonic()
        if self._is_silent:
            self._is_silent = False
            self._ioc.tell(pvs.MESSAGE, "the stream process goes on")
        self._display.show(status, has_model=self._models.live is not None)

    async def _reset(self) -> None:
        if self._commands is not None:  # a process that is not started yet counts from zero
            self._had_reset.clear()
            self._send(Reset())
            await self._had_reset.wait()
        else:
            self._forget_counts()
        self._restarts = 0
        self._ioc.post(pvs.RESTARTS, 0)
        self._ioc.tell(pvs.MESSAGE, "reset")

    def _forget_counts(self) -> None:
        """Have the next process count from zero; it still knows the frame that came last when it comes again."""
        self._mark = Mark(last_frame=self._mark.last_frame)


async def serve(config: Config, ready: Callable[[], None] | None = None) -> None:
    """Run the edge IOC until it is told to stop."""
    await Edge(config).serve(ready)
