"""The stream of reconstructions: previews while phase retrieval runs, and the finished map."""

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from iocs.maps import map_frame
from iocs.server import IocServer
from iocs.stream import Attribute, NdFrame, StreamServer
from phasing.reconstruction import Reconstruction
from pvdb import Severity
from pvdb import workflow as pvs

log = logging.getLogger("phaseline.workflow")


class Pictures:
    """Makes pictures in a thread of its own, in the order asked for: a large map takes seconds.

    The thread is never joined: a picture that is being made cannot be called off, and must not keep an IOC that was
    told to stop.
    """

    def __init__(self, ioc: IocServer, streams: StreamServer, image: str) -> None:
        """`image` is the full name of the stream."""
        self._ioc, self._streams, self._image = ioc, streams, image
        self._image_id = 0
        self._wanted: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        threading.Thread(target=self._work, name="pictures", daemon=True).start()

    def stop(self) -> None:
        """Show nothing more; streams and event loop may end after this."""
        with self._lock:
            self._stopped = True

    def preview(self, path: Path, epoch: int) -> None:
        """Show a preview of the phase; one that a newer has replaced is left out."""
        self._wanted.put(lambda: self._preview(path, epoch))

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

    def _preview(self, path: Path, epoch: int) -> None:
        try:
            phase_rad = np.load(path, allow_pickle=False)
        except (OSError, ValueError):
            return  # a newer preview has replaced it
        self._image_id += 1
        self._publish(NdFrame(self._image_id, time.time_ns(), phase_rad.astype(np.float32), {"Epoch": epoch}, "rad"))

    def _reconstruction(self, path: Path) -> None:
        found = Reconstruction.load(path)
        attributes: dict[str, Attribute] = {"ScanId": found.scan_id, "Epoch": len(found.error_history)}
        self._image_id += 1
        self._publish(map_frame(found.phase_map(), self._image_id, time.time_ns(), attributes))

    def _publish(self, frame: NdFrame) -> None:
        self._unless_stopped(self._streams.publish, self._image, frame)
