"""The streams of reconstructions: previews while phase retrieval runs, the finished map, how the live map differs."""

import asyncio
import io
import logging
import math
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from hpc_bridge.errors import BridgeError
from hpc_bridge.remote_files import FileReader
from iocs.live_maps import EdgeAway
from iocs.maps import map_frame
from iocs.server import IocServer
from iocs.stream import Attribute, NdFrame, StreamServer
from phasing.compare import map_correlation, map_difference
from phasing.errors import PhaselineError
from phasing.reconstruction import Reconstruction
from phasing.stitch import StitchedMap
from pvdb import Pv, Severity
from pvdb import workflow as pvs

log = logging.getLogger("phaseline.workflow")
AWAY_S = 30.0
"""How long an edge that gave no answer is not asked again: pictures of many runs must not wait for it one by one."""


class Pictures:
    """Makes pictures in a thread of its own, in the order asked for: a large map takes seconds.

    The thread is never joined: a picture that is being made cannot be called off, and must not keep an IOC that was
    told to stop.
    """

    def __init__(
        self,
        ioc: IocServer,
        streams: StreamServer,
        files: FileReader,
        live_map: Callable[[str], StitchedMap | None],
    ) -> None:
        """`files` reads what jobs write, `live_map` gives what the edge has seen of a scan, by its id."""
        self._ioc, self._streams, self._files, self._live_map = ioc, streams, files, live_map
        self._image_id = 0
        self._ask_again_s = -math.inf
        ioc.post(pvs.LIVE_CORRELATION, math.nan)
        self._wanted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        threading.Thread(target=self._work, name="pictures", daemon=True).start()

    def stop(self) -> None:
        """Show nothing more; streams and event loop may end after this."""
        with self._lock:
            self._stopped = True

    def preview(self, path: str, epoch: int) -> None:
        """Show a preview of the phase; one that a newer has replaced is left out."""
        self._wanted.put(lambda: self._preview(path, epoch))

    def training(self, path: str, epoch: int) -> None:
        """Show labels of held-out frames above their predictions; what a newer one has replaced is left out."""
        self._wanted.put(lambda: self._training(path, epoch))

    def reconstruction(self, path: Path) -> None:
        """Show a finished reconstruction with its place on the sample."""
        self._wanted.put(lambda: self._reconstruction(path))

    async def shown(self) -> None:
        """Return when every picture asked for so far is on the stream."""
        shown = asyncio.Event()
        self._wanted.put(lambda: self._unless_stopped(self._ioc.loop.call_soon_threadsafe, shown.set))
        await shown.wait()

    def _work(self) -> None:
        while True:
            make = self._wanted.get()
            try:
                make()
            except Exception as error:  # whatever a file holds: later pictures, and who waits for them, go on
                log.debug("a picture", exc_info=error)
                text = f"a picture cannot be shown: {error}"
                self._unless_stopped(self._ioc.tell, pvs.RECON_MESSAGE, text, Severity.MINOR)

    def _unless_stopped(self, step: Callable[..., object], *arguments: object) -> None:
        with self._lock:
            if not self._stopped:
                step(*arguments)

    def _preview(self, path: str, epoch: int) -> None:
        phase_rad = self._read(path)
        if phase_rad is not None:
            self._show(phase_rad, epoch, pvs.RECON_IMAGE)

    def _training(self, path: str, epoch: int) -> None:
        both_rad = self._read(path)
        if both_rad is not None:
            self._show(np.concatenate([np.hstack(list(row)) for row in both_rad]), epoch, pvs.TRAIN_IMAGE)

    def _read(self, path: str) -> npt.NDArray[np.float32] | None:
        """What a job has left to be shown; None where something newer has replaced it."""
        try:
            return np.asarray(np.load(io.BytesIO(self._files.read(path)), allow_pickle=False), np.float32)
        except (OSError, ValueError, BridgeError):
            return None

    def _show(self, phase_rad: npt.NDArray[np.float32], epoch: int, pv: Pv) -> None:
        self._image_id += 1
        self._publish(NdFrame(self._image_id, time.time_ns(), phase_rad, {"Epoch": epoch}, "rad"), pv)

    def _reconstruction(self, path: Path) -> None:
        found = Reconstruction.load(path)
        attributes: dict[str, Attribute] = {"ScanId": found.scan_id, "Epoch": len(found.error_history)}
        self._image_id += 1
        phase_map = found.phase_map()
        self._publish(map_frame(phase_map, self._image_id, time.time_ns(), attributes))
        self._compare(found.scan_id, phase_map)

    def _compare(self, scan_id: str, reconstructed: StitchedMap) -> None:
        """Show how the live map differs from the reconstruction, if the edge has seen the scan."""
        correlation, wrong = math.nan, ""
        live = self._live(scan_id)
        try:
            if live is not None:
                correlation = map_correlation(live, reconstructed)
                difference = map_difference(live, reconstructed)
                frame = map_frame(difference, self._image_id, time.time_ns(), {"ScanId": scan_id})
                self._publish(frame, pvs.DIFFERENCE)
        except PhaselineError as error:
            wrong = f"{scan_id}: the live map cannot be compared: {error}"
        self._unless_stopped(self._ioc.post, pvs.LIVE_CORRELATION, correlation)
        if wrong:
            self._unless_stopped(self._ioc.tell, pvs.RECON_MESSAGE, wrong, Severity.MINOR)

    def _live(self, scan_id: str) -> StitchedMap | None:
        """What the edge has seen of a scan; one that gives no answer is not waited for again at once."""
        if time.monotonic() < self._ask_again_s:
            return None
        try:
            return self._live_map(scan_id)
        except EdgeAway:
            self._ask_again_s = time.monotonic() + AWAY_S
            return None

    def _publish(self, frame: NdFrame, pv: Pv = pvs.RECON_IMAGE) -> None:
        self._unless_stopped(self._streams.publish, self._ioc.name(pv), frame)
