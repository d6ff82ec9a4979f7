"""The edge IOC: the controls beside the stream process, and the models that it serves."""

import asyncio
import functools
import logging
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import pvaccess as pva

from iocs import edge_stream
from iocs.config import Config
from iocs.edge_commands import Commands
from iocs.edge_display import EdgeDisplay
from iocs.edge_messages import (
    Command,
    Event,
    FrameMark,
    LoadModel,
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
from iocs.edge_models import Announcement, Fetcher, KeptModel, ModelStore
from iocs.server import IocServer
from phasing.errors import PhaselineError
from pvdb import Severity, full_name, workflow
from pvdb import edge as pvs

log = logging.getLogger("phaseline.edge")

MODEL_IDLE, FETCHING, WARMING, REFUSED = range(4)
RESTART_DELAY_S = 1.0
STOP_TIMEOUT_S = 1.0
STOP_RECORDING_TIMEOUT_S = 10.0
"""How long a stream process may take to end a recording well; killed, it would leave a file to be taken up later."""


class Edge:
    """Owns the stream process and the model store; every control and state is a PV."""

    def __init__(self, config: Config) -> None:
        """Prepare the IOC; nothing is served yet."""
        self._config = config
        self._ioc = IocServer("edge", "Edge", config.prefix)
        self._store = ModelStore(config.root / "edge" / "models")
        procedure = full_name(config.prefix, workflow.FETCH)
        self._fetcher = Fetcher(self._store, procedure, config.edge.fetch_timeout_s, done=self._fetch_ended)
        self._display = EdgeDisplay(self._ioc)
        self._commands: Commands | None = None
        self._process: BaseProcess | None = None
        self._live: KeptModel | None = None
        self._wanted: Announcement | None = None
        self._last_frame: FrameMark | None = None
        self._building: KeptModel | None = None
        self._next: KeptModel | None = None
        self._stopping = False
        self._announcements: pva.Channel | None = None
        self._had_reset = asyncio.Event()
        for pv in (pvs.BATCH_SIZE, pvs.MAX_WAIT, pvs.MIN_COUNTS, pvs.ENABLE, pvs.RECORD):
            self._ioc.listen(pv, lambda value: self._send(self._settings()))
        self._ioc.on_action(pvs.RESET, self._reset)

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until told to stop; the last model serves again before the workflow is asked for a newer one."""
        supervisor = asyncio.create_task(self._supervise())
        try:
            self._watch_announcements()
            await self._ioc.serve(ready)
        finally:
            self._stopping = True
            if self._announcements is not None:
                self._announcements.stopMonitor()
            self._send(Stop())
            await self._ioc.loop.run_in_executor(None, self._end_process)
            self._close_commands()
            supervisor.cancel()
            await asyncio.gather(supervisor, return_exceptions=True)

    # the stream process

    async def _supervise(self) -> None:
        """Keep a stream process running; when one dies, say so and start another with the same model."""
        while not self._stopping:
            ended = asyncio.Event()
            self._start_process(functools.partial(self._ioc.loop.call_soon_threadsafe, ended.set))
            kept = self._live or self._store.last()
            waiting = self._next
            if kept is not None:
                self._wanted = self._wanted or kept.announcement
                self._load(kept)
            if waiting is not None:
                self._load(waiting)
            await ended.wait()
            self._close_commands()
            if not self._stopping:
                self._stream_died(kept)
                await asyncio.sleep(RESTART_DELAY_S)

    def _stream_died(self, kept: KeptModel | None) -> None:
        """Say so; a model on its way is refused, for it may be what killed the process that `kept` served in."""
        building, self._building = self._building, None
        if building is not None and building != kept:
            self._refused(building.announcement, "the stream process died while it was built")
        self._display.show_fault()
        self._ioc.tell(pvs.MESSAGE, "the stream process died; starting another", Severity.MAJOR)
        self._had_reset.set()  # the next one counts from zero

    def _start_process(self, ended: Callable[[], object]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit live pvAccess clients
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=edge_stream.run, args=(self._stream_config(), self._settings(), theirs), name="edge-stream"
        )
        self._process.start()
        theirs.close()
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

    def _send(self, command: Command) -> None:
        """Send to the process there is; one that is not started yet gets its settings and its model at the start."""
        if self._commands is not None:
            self._commands.send(command)

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
            last_frame=self._last_frame,
        )

    # events of the stream process

    def _handle(self, event: Event) -> None:
        if isinstance(event, Status):
            self._show(event)
        elif isinstance(event, Swapped):
            self._swapped(event)
            self._built()
        elif isinstance(event, ModelRefused):
            self._refused(event.model.announcement, event.reason)
            self._built()
        elif isinstance(event, WasReset):
            self._had_reset.set()
        else:
            self._note(event)

    def _note(self, note: Note) -> None:
        self._ioc.tell(pvs.MESSAGE, note.text, note.severity)

    def _show(self, status: Status) -> None:
        self._last_frame = status.last_frame
        self._display.show(status, has_model=self._live is not None)

    async def _reset(self) -> None:
        if self._commands is not None:  # a process that is not started yet counts from zero
            self._had_reset.clear()
            self._send(Reset())
            await self._had_reset.wait()
        self._ioc.tell(pvs.MESSAGE, "reset")

    # models

    def _watch_announcements(self) -> None:
        """Follow what the workflow IOC announces; it may come and go."""
        name = full_name(self._config.prefix, workflow.ANNOUNCED)
        self._announcements = pva.Channel(name)
        self._announcements.monitor(
            lambda update: self._ioc.loop.call_soon_threadsafe(self._announced, str(update["value"])), "field(value)"
        )

    def _announced(self, text: str) -> None:
        if not text:
            return
        try:
            announcement = Announcement.parse(text)
        except PhaselineError as error:
            self._ioc.tell(pvs.MESSAGE, str(error), Severity.MAJOR)
            return
        new = not self._wants(announcement)
        self._wanted = announcement  # announced again, it has another serial number
        if new:
            self._ioc.post(pvs.MODEL_STATE, FETCHING)
            self._fetcher.want(announcement)

    def _wants(self, announcement: Announcement) -> bool:
        """Whether this model is the one announced last."""
        return self._wanted is not None and self._wanted.same_model(announcement)

    def _fetch_ended(self, announcement: Announcement, found: KeptModel | str) -> None:
        self._ioc.loop.call_soon_threadsafe(self._fetched, announcement, found)

    def _fetched(self, announcement: Announcement, found: KeptModel | str) -> None:
        """Go on with a model that is here, or say why it is not; a newer announcement makes it void."""
        if not self._wants(announcement):
            return
        if isinstance(found, KeptModel):
            self._load(found)
        else:
            self._refused(announcement, found)

    def _load(self, kept: KeptModel) -> None:
        """Let the stream process build a model as soon as it is there and has built the one before."""
        self._next = kept
        if self._wants(kept.announcement):
            self._ioc.post(pvs.MODEL_STATE, WARMING)
        self._build_next()

    def _build_next(self) -> None:
        if self._commands is not None and self._building is None and self._next is not None:
            self._building, self._next = self._next, None
            self._send(LoadModel(self._building, proven=self._store.has_served(self._building.announcement)))

    def _built(self) -> None:
        self._building = None
        self._build_next()

    def _swapped(self, event: Swapped) -> None:
        self._live, announcement = event.model, event.model.announcement
        self._ioc.post(pvs.ENGINE, event.engine)
        self._ioc.post(pvs.ENGINE_DIFFERENCE, event.difference_rad or 0.0)
        self._ioc.post(pvs.MODEL, announcement.version)
        if self._wants(announcement):
            self._ioc.post(pvs.MODEL_STATE, MODEL_IDLE)
            self._ioc.post(pvs.REFUSED, self._ioc.value(pvs.REFUSED))  # an old refusal is no alarm any more
        self._ioc.tell(pvs.MESSAGE, f"model {announcement.version} is live on {event.engine}")
        try:
            self._store.remember(announcement)
        except OSError as error:
            text = f"model {announcement.version} is live, but will not be after a restart: {error}"
            self._ioc.tell(pvs.MESSAGE, text, Severity.MAJOR)

    def _refused(self, announcement: Announcement, reason: str) -> None:
        """Say why a model is not taken; the former one serves on, and the next announcement is tried afresh."""
        text = f"model {announcement.version} refused: {reason}"
        serial = announcement.serial
        if self._wanted is not None and self._wanted.same_model(announcement):
            serial = self._wanted.serial
            self._wanted = self._live.announcement if self._live is not None else None
            self._ioc.post(pvs.MODEL_STATE, REFUSED)
        refusal = f"{announcement.version} {serial} {reason}"
        self._ioc.post(pvs.REFUSED, refusal, severity=Severity.MAJOR, message=text)
        self._ioc.tell(pvs.MESSAGE, text, Severity.MAJOR)


async def serve(config: Config, ready: Callable[[], None] | None = None) -> None:
    """Run the edge IOC until it is told to stop."""
    await Edge(config).serve(ready)
