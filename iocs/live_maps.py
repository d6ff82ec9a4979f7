"""Live maps of finished scans, kept on the edge's disk until somebody compares them with the reconstruction."""

import hashlib
import logging
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import pvaccess as pva

from iocs.edge_messages import Note
from iocs.maps import map_frame, placed_map
from iocs.stream import NdFrame, decode, encode
from phasing.errors import FrameRejected, PhaselineError
from phasing.files import replaced_file
from phasing.stitch import StitchedMap
from pvdb import Severity

log = logging.getLogger("phaseline.edge")

KEPT_MAPS = 64
"""The latest maps that are kept."""
KEPT_BYTES = 2 * 10**9
"""What they may take on the disk, all together."""
REST_S = 0.5
"""A map that nothing was added to for so long is kept, for it may be the last of its scan: well before a small scan is
reconstructed."""
REST = 20.0
"""Times what it cost to keep a map that the next one rests at least: a slow scan of a large map writes little."""
AGAIN_S = 60.0
"""How much later a map is tried again that the disk did not take."""
MAY_GROW = 3
"""The newest maps, which may grow after they rested."""
SCAN = "scan"
"""The argument of the remote procedure: a scan's id."""


class MapFiles:
    """One file for each scan's map in a folder; the oldest make way."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, scan_id: str, found: StitchedMap) -> None:
        """Keep the map of a scan instead of the one that was kept; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with replaced_file(self._path(scan_id)) as part, part.open("wb") as file:
            np.savez(
                file,
                phase_rad=found.phase_rad,
                weight=found.weight,
                place=np.array([*found.origin_m, found.pixel_size_m]),
            )
        self._make_way()

    def find(self, scan_id: str) -> StitchedMap | None:
        """The map of a scan; None where there is none, or none that can be read."""
        try:
            with self._path(scan_id).open("rb") as file, np.load(file, allow_pickle=False) as kept:
                origin_y_m, origin_x_m, pixel_size_m = kept["place"].tolist()
                return StitchedMap(kept["phase_rad"], kept["weight"], (origin_y_m, origin_x_m), pixel_size_m)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def _path(self, scan_id: str) -> Path:
        """A scan's id may be any text."""
        return self._folder / f"{hashlib.sha256(scan_id.encode()).hexdigest()[:32]}.npz"

    def _make_way(self) -> None:
        files = sorted(((path.stat(), path) for path in self._folder.glob("*.npz")), key=lambda one: -one[0].st_mtime)
        total = 0
        for number, (stat, path) in enumerate(files):
            total += stat.st_size
            if number and (number >= KEPT_MAPS or total > KEPT_BYTES):
                path.unlink()


class Growing(Protocol):
    """A scan's map while predictions are added to it."""

    @property
    def scan_id(self) -> str:
        """The id of its scan, which may be empty."""

    @property
    def added(self) -> int:
        """How many predictions are on it."""

    def map(self) -> StitchedMap | None:
        """The map as it is now; None before the first prediction."""


@dataclass(eq=False)
class _Watched:
    growing: Growing
    seen: int = 0
    kept: int = 0
    since_s: float = 0.0


class MapKeeper:
    """Has every map kept that rests, again when it grew after that, and in the end.

    An incomplete replay does not replace a fuller map of its scan. `follow` is of any thread, the rest of one.
    """

    def __init__(self, files: MapFiles, note: Callable[[Note], None]) -> None:
        """`note` hears of what cannot be kept."""
        self._files, self._note = files, note
        self._begun: SimpleQueue[Growing] = SimpleQueue()
        self._watched: list[_Watched] = []
        self._rest_s = REST_S

    def follow(self, growing: Growing) -> None:
        """Look after a map that begins; one whose scan has no id is nobody's."""
        if growing.scan_id:
            self._begun.put(growing)

    def look(self) -> None:
        """Keep what rests; of what is kept, only the newest maps may grow on."""
        now_s = time.monotonic()
        self._take_up()
        for one in self._watched:
            if one.growing.added != one.seen:
                one.seen, one.since_s = one.growing.added, now_s
            elif one.seen != one.kept and now_s - one.since_s >= self._rest_s:
                self._keep(one)
        aside = len(self._watched) - MAY_GROW
        self._watched = [one for number, one in enumerate(self._watched) if number >= aside or one.kept != one.seen]

    def close(self) -> None:
        """Keep what is not kept yet."""
        self._take_up()
        for one in self._watched:
            one.seen = one.growing.added
            if one.seen != one.kept:
                self._keep(one)

    def _take_up(self) -> None:
        while not self._begun.empty():
            self._watched.append(_Watched(self._begun.get()))

    def _keep(self, one: _Watched) -> None:
        began_s = time.monotonic()
        found = one.growing.map()
        fuller = any(other.kept > one.seen for other in self._watched if other.growing.scan_id == one.growing.scan_id)
        try:
            if found is not None and not fuller:
                self._files.keep(one.growing.scan_id, found)
                self._rest_s = max(REST_S, REST * (time.monotonic() - began_s))
            one.kept = one.seen
        except OSError as error:
            one.since_s = began_s + AGAIN_S
            text = f"the live map of {one.growing.scan_id} is not kept: {error.strerror or error}"
            self._note(Note(text, Severity.MINOR))


class MapServer:
    """Gives the maps out by a remote procedure, which needs no p4p: an NTNDArray, or an empty one."""

    def __init__(self, name: str, files: MapFiles) -> None:
        """Begin to serve."""
        self._files = files
        self._server = pva.RpcServer()
        self._server.registerService(name, self._answer)
        self._server.startListener()

    def stop(self) -> None:
        """Serve no more."""
        self._server.stopListener()

    def _answer(self, request: pva.PvObject) -> pva.PvObject:
        """Never raises: pvapy would end the process."""
        try:
            arguments = request.toDict()
            scan_id = str(arguments.get("query", arguments).get(SCAN, ""))
            found = self._files.find(scan_id)
            if found is not None:
                return encode(map_frame(found, 1, time.time_ns(), {"ScanId": scan_id}))
        except Exception:
            log.exception("the live map that was asked for cannot be given")
        return pva.NtNdArray()


class EdgeAway(PhaselineError):
    """The edge gives no answer."""


def fetch_map(procedure: str, scan_id: str, timeout_s: float) -> StitchedMap | None:
    """The live map of a scan from the edge, or None where it has none; EdgeAway when it gives no answer in time."""
    try:
        reply = pva.RpcClient(procedure).invoke(pva.PvObject({SCAN: pva.STRING}, {SCAN: scan_id}), timeout_s)
        frame: NdFrame | None = decode(reply)
        return None if frame is None else placed_map(frame)
    except pva.PvaException as error:
        raise EdgeAway(f"{procedure} gives no answer: {error}") from error
    except (FrameRejected, LookupError, ValueError):  # an answer that is no map
        return None
