"""The detector IOC: a simulated or replayed area detector that streams frames and writes the scan file."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iocs.acquisition import Taken, acquire
from iocs.capture import Capture
from iocs.coerce import max_bytes
from iocs.config import Config
from iocs.frames_source import FrameSource, ReplayedSource, SimulatedSource, Simulation
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.stream import StreamServer
from phasing.errors import PhaselineError
from phasing.frames import Frame
from phasing.scanwriter import part_path
from pvdb import Severity, state_name
from pvdb import detector as pvs

_IDLE, _ACQUIRE, _ABORTED, _ERROR = 0, 1, 10, 6
_DTYPE_NAMES = {"i": "Int", "u": "UInt", "f": "Float"}


class Detector:
    """Acquires, streams and saves; every control is an areaDetector PV."""

    def __init__(self, config: Config) -> None:
        """Prepare the IOC; nothing is served yet."""
        self._config = config
        self._ioc = IocServer("detector", "Det", config.prefix, config.detector.renames)
        self._image = self._ioc.name(pvs.IMAGE)
        self._streams = StreamServer([self._image])
        self._executor = ThreadPoolExecutor(2, thread_name_prefix="acquire")
        self._capture: Capture | None = None
        self._ioc.on_action(pvs.ACQUIRE, self._acquire)
        self._ioc.on_action(pvs.CAPTURE, self._run_capture)
        self._ioc.on_set(pvs.FILE_PATH, self._accept_path)
        self._ioc.on_set(pvs.FILE_TEMPLATE, self._accept_template)

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until told to stop; a running acquisition ends first and its file is closed."""
        self._show_geometry()
        try:
            await self._ioc.serve(ready)
        finally:
            self._finish_capture()
            self._streams.stop()
            self._executor.shutdown()

    def _show_geometry(self) -> None:
        folder = self._config.scans
        folder.mkdir(parents=True, exist_ok=True)
        self._ioc.post(pvs.FILE_PATH, _folder_text(folder))
        self._ioc.post(pvs.FILE_PATH_EXISTS, 1)
        self._ioc.post(pvs.PV_NAME, self._image)
        self._ioc.post(pvs.MODEL, "simulated or replayed")
        self._show_size(*self._config.geometry.detector_shape_px)

    def _show_size(self, height: int, width: int) -> None:
        for pv, size in (
            (pvs.MAX_SIZE_X, width),
            (pvs.MAX_SIZE_Y, height),
            (pvs.ARRAY_SIZE_X, width),
            (pvs.ARRAY_SIZE_Y, height),
        ):
            self._ioc.post(pv, size)

    async def _accept_path(self, value: str) -> str:
        path = Path(value)
        if not path.is_absolute():
            raise Refused(f"{value!r} is not an absolute folder")
        text = _folder_text(path)
        self._ioc.post(pvs.FILE_PATH_EXISTS, int(path.is_dir()))
        return text

    async def _accept_template(self, value: str) -> None:
        try:
            value % ("/folder/", "name", 1)
        except (TypeError, ValueError) as error:
            raise Refused(f"{value!r} does not take path, name and number: {error}") from error

    async def _acquire(self) -> None:
        """Run one acquisition; put 0 ends it within a frame period."""
        state, message = _ERROR, "internal error, see the log"
        try:
            await self._expose()
            state, message = _IDLE, "acquisition done"
        except asyncio.CancelledError:
            state, message = _ABORTED, "acquisition stopped"
            raise
        except PhaselineError as error:
            message = str(error)
            raise
        finally:
            self._show_state(state, message)

    async def _expose(self) -> None:
        """Take the frames in a thread, which has ended when this returns or raises."""
        source = await self._ioc.loop.run_in_executor(self._executor, self._source())
        self._show_source(source)
        stop = threading.Event()
        running = self._ioc.loop.run_in_executor(self._executor, self._take, source, stop)
        try:
            await asyncio.shield(running)
        except asyncio.CancelledError:
            stop.set()
            await running
            raise

    def _source(self) -> Callable[[], FrameSource]:
        """What makes the source that the PVs ask for; called in a thread, for reading a file takes time."""
        value = self._ioc.value
        if state_name(pvs.SOURCE, value(pvs.SOURCE)) == "Replay":
            path, part = Path(value(pvs.REPLAY_FILE)), state_name(pvs.REPLAY_PART, value(pvs.REPLAY_PART))
            return lambda: ReplayedSource(path, part)  # type: ignore[arg-type]
        simulation = Simulation(
            num_frames=self._num_frames(None),
            step_m=value(pvs.STEP) * 1e-9,
            region_m=(value(pvs.REGION_Y) * 1e-6, value(pvs.REGION_X) * 1e-6),
            photons=value(pvs.PHOTONS),
            sample_seed=value(pvs.SAMPLE),
            defocus_m=self._config.detector.defocus_m,
        )
        scan_id, geometry = value(pvs.SCAN_ID), self._config.geometry.geometry()
        return lambda: SimulatedSource(simulation, geometry, scan_id)

    def _num_frames(self, source: FrameSource | None) -> int:
        """Frames of this acquisition; a replay has no more than its file."""
        if state_name(pvs.IMAGE_MODE, self._ioc.value(pvs.IMAGE_MODE)) == "Single":
            return 1
        wanted = int(self._ioc.value(pvs.NUM_IMAGES))
        return wanted if source is None else min(wanted, source.num_frames)

    def _take(self, source: FrameSource, stop: threading.Event) -> None:
        value = self._ioc.value
        callbacks = bool(value(pvs.ARRAY_CALLBACKS))
        streaming = callbacks and bool(value(pvs.PVA_ENABLE))
        continuous = state_name(pvs.IMAGE_MODE, value(pvs.IMAGE_MODE)) == "Continuous"
        num_frames = pvs.LAST_ID if continuous else self._num_frames(source)
        period_s = max(value(pvs.ACQUIRE_PERIOD), value(pvs.ACQUIRE_TIME))
        acquire(
            source,
            num_frames=num_frames,
            period_s=period_s,
            first_id=value(pvs.ARRAY_COUNTER) + 1,
            stop=stop,
            stream=lambda frame: self._streams.publish(self._image, frame) if streaming else None,
            save=self._save if callbacks else lambda source, frame: None,
            report=lambda taken: self._show_taken(taken, 0 if continuous else num_frames, period_s),
        )

    def _save(self, source: FrameSource, frame: Frame) -> None:
        capture = self._capture
        if capture is not None:
            capture.offer(source, frame)

    def _show_source(self, source: FrameSource) -> None:
        name = f"{_DTYPE_NAMES[source.dtype.kind]}{source.dtype.itemsize * 8}"
        if name not in pvs.DATA_TYPE.states:
            raise ActionFailed(f"pixels of type {name} cannot be streamed; {', '.join(pvs.DATA_TYPE.states)} can")
        self._show_state(_ACQUIRE, "acquiring")
        self._ioc.post(pvs.SCAN_ID_USED, source.scan_id)
        self._show_size(*source.geometry.detector_shape_px)
        self._ioc.post(pvs.DATA_TYPE, pvs.DATA_TYPE.states.index(name))

    def _show_state(self, state: int, message: str) -> None:
        self._ioc.post(pvs.DETECTOR_STATE, state)
        self._ioc.tell(pvs.STATUS_MESSAGE, message, Severity.MAJOR if state == _ERROR else Severity.NO_ALARM)

    def _show_taken(self, taken: Taken, num_frames: int, period_s: float) -> None:
        self._ioc.post(pvs.ARRAY_COUNTER, taken.last_id)
        self._ioc.post(pvs.NUM_IMAGES_COUNTER, taken.frames)
        self._ioc.post(pvs.ARRAY_RATE, taken.rate_hz)
        self._ioc.post(pvs.TIME_REMAINING, max(0, num_frames - taken.frames) * period_s)

    async def _run_capture(self) -> None:
        """Write frames until NumCapture of them are written, or 0 is put; the file is then closed."""
        try:
            path = self._new_file()
        except (OSError, ValueError, OverflowError) as error:  # what paths and the % of templates raise
            raise self._write_failed(f"that cannot be a file: {error}") from error
        self._show_beginning()
        done = asyncio.Event()
        self._capture = Capture(
            path,
            limit=self._ioc.value(pvs.NUM_CAPTURE),
            queue_frames=self._config.detector.queue_frames,
            opened=lambda: self._show_opened(path),
            wrote=lambda number: self._ioc.post(pvs.NUM_CAPTURED, number),
            lost=lambda number: self._ioc.post(pvs.FILE_DROPPED, number),
            waits=self._show_waits,
            finished=lambda: self._ioc.loop.call_soon_threadsafe(done.set),
        )
        try:
            await done.wait()
        finally:
            await self._ioc.loop.run_in_executor(None, self._finish_capture)

    def _new_file(self) -> Path:
        """The path that the PVs make; ActionFailed when no file can be made there."""
        value = self._ioc.value
        path = Path(value(pvs.FILE_TEMPLATE) % (value(pvs.FILE_PATH), value(pvs.FILE_NAME), value(pvs.FILE_NUMBER)))
        if not path.is_absolute():
            raise self._write_failed(f"{path} is not absolute: FileTemplate leaves out FilePath")
        if not path.parent.is_dir():
            raise self._write_failed(f"{path.parent} is not a folder")
        for taken in (path, part_path(path)):
            if taken.exists():
                raise self._write_failed(f"{taken} exists; choose another FileName or FileNumber")
        return path

    def _show_beginning(self) -> None:
        """Show nothing of the capture before."""
        self._ioc.post(pvs.FULL_FILE_NAME, "")
        self._ioc.post(pvs.NUM_CAPTURED, 0)
        self._ioc.post(pvs.FILE_DROPPED, 0)
        self._ioc.post(pvs.WRITE_STATUS, 0)
        self._ioc.post(pvs.WRITE_MESSAGE, "")

    def _show_opened(self, path: Path) -> None:
        self._ioc.post(pvs.WRITE_FILE, 1)
        self._ioc.post(pvs.FULL_FILE_NAME, str(path))

    def _show_waits(self, reason: str) -> None:
        """Show that the disk is full, with an empty text that it takes frames again."""
        self._ioc.post(pvs.WRITE_STATUS, 1 if reason else 0)
        if reason:
            self._ioc.tell(pvs.WRITE_MESSAGE, f"waits for the disk: {reason}", Severity.MAJOR)
        else:
            self._ioc.tell(pvs.WRITE_MESSAGE, "writes again")

    def _finish_capture(self) -> None:
        """Close the file and show how the capture went."""
        capture, self._capture = self._capture, None
        if capture is None:
            return
        capture.finish()
        state = capture.state
        self._ioc.post(pvs.NUM_CAPTURED, state.written)
        self._ioc.post(pvs.FILE_DROPPED, state.dropped)
        self._ioc.post(pvs.WRITE_FILE, 0)
        if state.path.exists() or part_path(state.path).exists():
            self._count_file()
        if state.error:
            raise self._write_failed(state.error)
        if state.dropped:
            raise self._write_failed(
                f"{state.dropped} frames dropped, the disk was full or slow; {state.written} are in {state.path.name}"
            )
        self._ioc.post(pvs.WRITE_STATUS, 0)
        self._ioc.tell(pvs.WRITE_MESSAGE, f"{state.written} frames in {state.path.name}")

    def _count_file(self) -> None:
        """Go on to the next FileNumber, where it counts up by itself; it stays at its limit."""
        number = self._ioc.value(pvs.FILE_NUMBER)
        if self._ioc.value(pvs.AUTO_INCREMENT) and number < pvs.LAST_FILE_NUMBER:
            self._ioc.post(pvs.FILE_NUMBER, number + 1)

    def _write_failed(self, reason: str) -> ActionFailed:
        self._ioc.post(pvs.WRITE_STATUS, 1)
        self._ioc.tell(pvs.WRITE_MESSAGE, reason, Severity.MAJOR)
        return ActionFailed(reason)


def _folder_text(folder: Path) -> str:
    """How FilePath shows a folder, with a slash at its end; Refused when that does not fit."""
    text, limit = f"{folder}/", max_bytes(pvs.FILE_PATH)
    if len(text.encode()) > limit:
        raise Refused(f"over {limit} characters with the slash at its end: {text}")
    return text


async def serve(config: Config, ready: Callable[[], None] | None = None) -> None:
    """Run the detector IOC until it is told to stop."""
    await Detector(config).serve(ready)
