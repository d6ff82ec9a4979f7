"""The edge's stream process: receive, predict, publish, stitch; beside the control PVs, so that neither waits."""

import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection

from iocs.edge_accounting import Account
from iocs.edge_batches import Model
from iocs.edge_consumer_choice import Here, InConsumers
from iocs.edge_intake import Intake
from iocs.edge_maps import MapPublisher
from iocs.edge_messages import (
    Command,
    DropModel,
    Event,
    Failed,
    LoadModel,
    ModelDropped,
    ModelRefused,
    Note,
    Reset,
    ScanState,
    Settings,
    Status,
    Stop,
    StreamConfig,
    Swapped,
    WasReset,
)
from iocs.edge_models import KeptModel
from iocs.edge_outlet import Outlet
from iocs.edge_scans import ScanWatch
from iocs.edge_warmer import Warmer
from iocs.live_maps import MapFiles, MapKeeper
from iocs.stream import StreamReader, StreamServer
from phasing.errors import FrameRejected

POLL_S = 0.02
COMMAND_PERIOD_S = 0.005
STATUS_PERIOD_S = 0.2
STREAMING_S = 1.0
DRAIN_S = 10.0
SWITCH_S = 5e-4
"""How long one thread may keep the interpreter from the others: the time a prediction waits for a map to be made."""


def run(config: StreamConfig, settings: Settings, pipe: Connection) -> None:
    """Serve until told to stop or until the control process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the control process stops us
    sys.setswitchinterval(SWITCH_S)
    stream = EdgeStream(config, settings, pipe)
    try:
        stream.loop()
    except (EOFError, ConnectionError):
        pass  # the control process died; nobody is left to tell
    except Exception as error:
        with suppress(OSError):
            pipe.send(Failed(f"{type(error).__name__}: {error}"))  # at once: to end in order takes its time
        raise
    finally:
        stream.close()


class EdgeStream:
    """Owns the reader, the streams, the way of the frames between them, and the warmer.

    The loop takes frames and closes batches; the model's threads predict them, the outlet's thread publishes and
    stitches, another makes maps. Only the loop tells the control process anything.
    """

    def __init__(self, config: StreamConfig, settings: Settings, pipe: Connection) -> None:
        self._config, self._pipe = config, pipe
        self._noted: Note | None = None
        self._noting = threading.Lock()
        self._streams = StreamServer([config.phase, config.stitched, config.input])
        self._watch = ScanWatch(config.scan_pv, config.expected_pv)
        self._account = Account(config.former.total)
        keeper = MapKeeper(MapFiles(config.maps), self._take_note)
        self._outlet = Outlet(
            config,
            self._account,
            publish=lambda frame: self._streams.publish(config.phase, frame),
            done=lambda: self._batches.done(),
            note=self._take_note,
            begun=keeper.follow,
        )
        self._outlet.record = settings.record
        self._predictor = (
            InConsumers(config, settings, self._outlet, self._account, self._take_note)
            if config.edge.consumers
            else Here(config, settings, self._outlet)
        )
        self._batches = self._predictor.batches
        self._reader = StreamReader(self._predictor.source, queue_size=config.edge.queue_frames)
        self._intake = Intake(
            config,
            self._account,
            self._watch,
            overflowed=lambda: self._reader.counters().overflowed,
            reject=self._outlet.reject,
            note=self._take_note,
        )
        self._maps = MapPublisher(
            config.edge.stitch_period_s,
            current=lambda: self._outlet.live,
            state=lambda: self._scan_state().name.title(),
            publish=lambda frame: self._streams.publish(config.stitched, frame),
            made=self._outlet.record_map,
            keeper=keeper,
        )
        self._warmer = Warmer(config.edge, config.engine_cache, self._predictor.make)
        self._last_frame_s = float("-inf")
        self._periodic = [
            Periodic(COMMAND_PERIOD_S, self._look_around),
            Periodic(STATUS_PERIOD_S, self._send_status),
            Periodic(STATUS_PERIOD_S, self._send_note),
            Periodic(config.edge.input_period_s, self._send_input),
        ]
        self._unwanted: KeptModel | None = None
        self._stopping = False
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="edge-commands", daemon=True).start()

    def loop(self) -> None:
        """Frames first; commands and models between them."""
        while not self._stopping:
            self._receive()
            self._batches.close_if_due()
            now_s = time.monotonic()
            for task in self._periodic:
                task.run_if_due(now_s)

    def close(self) -> None:
        """Publish what is left and stop serving."""
        self._reader.close()
        self._watch.close()
        self._batches.flush()
        self._outlet.drain(lambda: None, DRAIN_S)
        self._maps.close()  # it shows and records the map with the last predictions
        self._outlet.close(DRAIN_S)
        self._predictor.close()
        self._warmer.close()
        self._streams.stop()

    def _tell(self, event: Event) -> None:
        self._pipe.send(event)

    def _take_note(self, note: Note) -> None:
        """Keep a note for the next round of telling: a thousand bad frames a second must not fill pipe and log.

        Of several notes the last of the worst is told; the counters count them all.
        """
        with self._noting:
            if self._noted is None or note.severity >= self._noted.severity:
                self._noted = note

    def _send_note(self) -> None:
        with self._noting:
            note, self._noted = self._noted, None
        if note is not None:
            self._tell(note)

    def _receive(self) -> None:
        timeout_s = self._batches.wait_s(POLL_S)
        if timeout_s <= 0.0:
            self._batches.wait_for_room(POLL_S)
            return
        update = self._reader.next(timeout_s)
        if update is None:
            return
        arrival_ns = time.time_ns()
        try:
            frame = self._batches.decode(update)
        except FrameRejected as error:
            self._intake.turn_away(str(error), enabled=self._batches.settings.enabled)
            return
        if frame is None:
            return
        self._last_frame_s = time.monotonic()
        card, enabled = self._batches.card_of(frame), self._batches.takes(frame)
        pending = self._intake.take(frame, arrival_ns, card, enabled=enabled)
        if pending is not None:
            self._batches.add(pending)

    def _listen(self) -> None:
        """Take commands as they come: to ask the pipe for them two hundred times a second took 7 % of a core."""
        try:
            while True:
                self._commands.put(self._pipe.recv())
        except (EOFError, OSError):
            self._commands.put(None)

    def _look_around(self) -> None:
        """Obey commands, swap in a model that is ready, end with a thread that has failed."""
        while not self._commands.empty():
            self._obey(self._commands.get())
        self._swap_if_ready()
        for part in (self._outlet, self._maps):
            if part.failed is not None:
                raise part.failed

    def _obey(self, command: Command | None) -> None:
        """Raises EOFError when the control process is gone."""
        if command is None:
            raise EOFError
        if isinstance(command, Settings):
            self._batches.settings = command
            self._outlet.record = command.record
        elif isinstance(command, LoadModel):
            self._unwanted = None
            recent = self._predictor.recent(self._intake.recent)
            self._warmer.warm(command, self._batches.settings.batch_size, recent)
        elif isinstance(command, DropModel):
            self._unwanted = command.model
        elif isinstance(command, Reset):
            self._reset()
        elif isinstance(command, Stop):
            self._stopping = True

    def _reset(self) -> None:
        """Begin a new map and count from zero; what came until now is counted before.

        Raises TimeoutError when a prediction does not end: then the engine hangs, and another process is called for.
        """
        self._batches.flush()
        self._intake.count_dropped()
        if not self._outlet.drain(self._begin_anew, DRAIN_S):
            raise TimeoutError(f"frames were not predicted within {DRAIN_S:g} s")
        self._intake.forget()
        self._send_status()
        self._tell(WasReset())

    def _begin_anew(self) -> None:
        self._outlet.begin_anew()
        self._account.clear()

    def _swap_if_ready(self) -> None:
        done = self._warmer.ready()
        if done is None:
            return
        kept, result = done
        if not isinstance(result, Model):
            self._tell(ModelRefused(kept, result))
        elif kept == self._unwanted:
            self._warmer.retire(result)
            self._tell(ModelDropped(kept))
        else:
            former = self._batches.swap(result)
            engine = result.engine
            self._tell(Swapped(kept, engine.name, engine.difference_rad, engine.remark))
            if former is not None:
                self._warmer.retire(former)

    def _is_streaming(self) -> bool:
        return time.monotonic() - self._last_frame_s < STREAMING_S

    def _scan_state(self) -> ScanState:
        scan = self._intake.scan
        counters = self._account.of(scan)
        first_ns = None if scan is None else scan.first_frame_ns
        return self._watch.state(first_ns, counters.received + counters.missed, streaming=self._is_streaming())

    def _send_status(self) -> None:
        self._intake.count_dropped()
        scan, live = self._intake.scan, self._outlet.live
        median_s, high_s = self._account.latency_s()
        consistency_rad, ratio = (None, None) if live is None else live.consistency()
        self._tell(
            Status(
                mark=self._intake.mark,
                scan_id="" if scan is None else scan.scan_id,
                scan_state=self._scan_state(),
                rate_hz=self._account.rate_hz(),
                latency_median_s=median_s,
                latency_99_s=high_s,
                latency_from_arrival=self._account.from_arrival,
                queue_used=self._reader.counters().waiting / self._config.edge.queue_frames,
                waiting=self._outlet.waiting,
                consistency_rad=consistency_rad,
                consistency_ratio=ratio,
                rejected_because=self._outlet.rejected_because,
                recording=self._outlet.recorder.state(),
                streaming=self._is_streaming(),
            )
        )

    def _send_input(self) -> None:
        frame = self._outlet.take_input()
        if frame is not None:
            self._streams.publish(self._config.input, frame)


class Periodic:
    """Something to do every so often."""

    def __init__(self, period_s: float, action: Callable[[], None]) -> None:
        self._period_s, self._action, self._next_s = period_s, action, 0.0

    def run_if_due(self, now_s: float) -> None:
        """Do it if its time has come; `now_s` of the monotonic clock."""
        if now_s >= self._next_s:
            self._next_s = now_s + self._period_s
            self._action()
