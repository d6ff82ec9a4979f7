"""The edge's stream process: receive, predict, publish, stitch; beside the control PVs, so that neither waits."""

import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from iocs.edge_messages import (
    Event,
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
from iocs.edge_pipeline import Model, Pipeline
from iocs.edge_warmer import Warmer
from iocs.maps import map_frame
from iocs.stream import Attribute, StreamReader, StreamServer, decode
from phasing.errors import FrameRejected

POLL_S = 0.02
STATUS_PERIOD_S = 0.2
STREAMING_S = 1.0
REST = 4.0
"""Times what it cost last that a periodic task waits at least, for meanwhile no frame is predicted."""


def run(config: StreamConfig, settings: Settings, pipe: Connection) -> None:
    """Serve until told to stop or until the control process is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the control process stops us
    stream = EdgeStream(config, settings, pipe)
    try:
        stream.loop()
    except (EOFError, ConnectionError):
        pass  # the control process died; nobody is left to tell
    finally:
        stream.close()


class EdgeStream:
    """Owns the reader, the streams, the pipeline and the warmer."""

    def __init__(self, config: StreamConfig, settings: Settings, pipe: Connection) -> None:
        self._config, self._pipe = config, pipe
        self._streams = StreamServer([config.phase, config.stitched, config.input])
        self._reader = StreamReader(config.source, queue_size=config.queue_frames)
        self._pipeline = Pipeline(
            config,
            settings,
            publish=lambda frame: self._streams.publish(config.phase, frame),
            overflowed=lambda: self._reader.counters().overflowed,
            note=self._take_note,
        )
        self._warmer = Warmer(engine=config.engine, threads=config.threads)
        self._last_frame_s = float("-inf")
        self._periodic = [
            Periodic(STATUS_PERIOD_S, self._send_status),
            Periodic(STATUS_PERIOD_S, self._send_note),
            Periodic(config.stitch_period_s, self._send_map),
            Periodic(config.input_period_s, self._send_input),
        ]
        self._consistency: tuple[float | None, float | None] = (None, None)
        self._noted: Note | None = None
        self._stopping = False

    def loop(self) -> None:
        """Frames first; commands, models and screens between them."""
        while not self._stopping:
            left_s = self._pipeline.time_left_s()
            self._receive(POLL_S if left_s is None else min(POLL_S, left_s))
            self._pipeline.flush_if_due()
            while self._pipe.poll():
                self._obey()
            self._swap_if_ready()
            now_s = time.monotonic()
            for task in self._periodic:
                task.run_if_due(now_s)

    def close(self) -> None:
        """Publish what is left and stop serving."""
        self._reader.close()
        self._pipeline.flush()
        self._warmer.join()
        self._streams.stop()

    def _tell(self, event: Event) -> None:
        self._pipe.send(event)

    def _take_note(self, note: Note) -> None:
        """Keep a note for the next round of telling: a thousand bad frames a second must not fill pipe and log.

        Of several notes the last of the worst is told; the counters count them all.
        """
        if self._noted is None or note.severity >= self._noted.severity:
            self._noted = note

    def _send_note(self) -> None:
        note, self._noted = self._noted, None
        if note is not None:
            self._tell(note)

    def _receive(self, timeout_s: float) -> None:
        update = self._reader.next(max(timeout_s, 1e-4))
        if update is None:
            return
        arrival_ns = time.time_ns()
        try:
            frame = decode(update)
        except FrameRejected as error:
            self._pipeline.reject(str(error))
            return
        if frame is not None:
            self._last_frame_s = time.monotonic()
            self._pipeline.take(frame, arrival_ns)

    def _obey(self) -> None:
        command = self._pipe.recv()
        if isinstance(command, Settings):
            self._pipeline.settings = command
        elif isinstance(command, LoadModel):
            self._warmer.warm(command.model, self._pipeline.settings.batch_size, self._pipeline.recent)
        elif isinstance(command, Reset):
            self._pipeline.reset()
            self._send_status()
            self._tell(WasReset())
        elif isinstance(command, Stop):
            self._stopping = True

    def _swap_if_ready(self) -> None:
        done = self._warmer.ready()
        if done is None:
            return
        kept, result = done
        if isinstance(result, Model):
            former = self._pipeline.swap(result)
            self._tell(Swapped(kept, result.engine.name))
            if former is not None:
                former.engine.close()
        else:
            self._tell(ModelRefused(kept, result))

    def _send_status(self) -> None:
        counters = self._reader.counters()
        self._pipeline.count_dropped()
        account = self._pipeline.account
        median_s, high_s = account.latency_s()
        self._tell(
            Status(
                counters=account.counters,
                scan_id=self._pipeline.scan_id,
                rate_hz=account.rate_hz(),
                latency_median_s=median_s,
                latency_99_s=high_s,
                latency_from_arrival=account.from_arrival,
                queue_used=counters.waiting / self._config.queue_frames,
                consistency_rad=self._consistency[0],
                consistency_ratio=self._consistency[1],
                streaming=time.monotonic() - self._last_frame_s < STREAMING_S,
                last_frame=self._pipeline.last_frame,
            )
        )

    def _send_map(self) -> None:
        if not self._pipeline.map_changed:
            return
        stitched, model = self._pipeline.stitched(), self._pipeline.model
        if stitched is None or model is None:
            return
        self._pipeline.map_changed = False
        self._consistency = self._pipeline.consistency()
        attributes: dict[str, Attribute] = {
            "ScanId": self._pipeline.scan_id,
            "ModelVersion": model.card.version,
        }
        count = self._pipeline.account.counters.published
        self._streams.publish(self._config.stitched, map_frame(stitched, count, time.time_ns(), attributes))

    def _send_input(self) -> None:
        frame, self._pipeline.latest_input = self._pipeline.latest_input, None
        if frame is not None:
            self._streams.publish(self._config.input, frame)


class Periodic:
    """Something to do every so often, and less often where it would take more than its share of the loop."""

    def __init__(self, period_s: float, action: Callable[[], None]) -> None:
        self._period_s, self._action, self._next_s = period_s, action, 0.0

    def run_if_due(self, now_s: float) -> None:
        """Do it if its time has come; `now_s` of the monotonic clock."""
        if now_s >= self._next_s:
            began_s = time.monotonic()
            self._action()
            ended_s = time.monotonic()
            self._next_s = max(now_s + self._period_s, ended_s + REST * (ended_s - began_s))
