"""Scans that submit themselves: a PV of any detector or scan engine says that one has ended, another names its file."""

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iocs.config import AutoSection
from iocs.followed import Followed, update_time_ns, update_value
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.workflow_scans import Scans
from phasing.errors import ScanFileError
from phasing.files import replaced_file
from phasing.linkedfiles import sibling_files
from phasing.scanfile import incomplete
from pvdb import Severity
from pvdb import workflow as pvs

PERIOD_S = 0.5
OFF, WATCHING, DISCONNECTED = range(3)
SEEN_PERIOD_S = 10.0
_NAMES_REMEMBERED = 100
_BACKWARDS_S = 120.0
"""How far before it was last alive an IOC looks for files: clocks of file servers differ."""


@dataclass
class Ended:
    """A scan that has ended and is not submitted yet; times are monotonic seconds and the trigger's nanoseconds."""

    at_ns: int
    since_s: float = field(default_factory=time.monotonic)
    path: Path | None = None
    waits_for: str = "the name of its file"


class Trigger:
    """The PVs that say when a scan has ended and what its file is called."""

    def __init__(self, when: str, trigger_pv: str, file_pv: str, quiet_pvs: tuple[str, ...]) -> None:
        """A scan has ended `when` the trigger falls, rises or changes.

        `quiet_pvs` have to be 0 before a file can be complete; channels that never connect say nothing.
        """
        self._when = when
        self._names: deque[tuple[int, str]] = deque(maxlen=_NAMES_REMEMBERED)
        self._last: str | int | None = None
        self._ended: list[Ended] = []
        self._busy = dict.fromkeys(quiet_pvs, False)
        self._needed = [Followed(file_pv, self._named)] if file_pv != trigger_pv else []
        self._needed.append(Followed(trigger_pv, self._triggered))
        # the trigger comes last, so that a name that came before it is known when it is heard
        self._followed = [*(Followed(name, self._noting(name)) for name in quiet_pvs), *self._needed]

    def ended(self) -> list[Ended]:
        """Scans that have ended since the last time."""
        for followed in self._followed:
            followed.tell()
        ended, self._ended = self._ended, []
        return ended

    @property
    def is_connected(self) -> bool:
        """Whether the trigger and the file's name are there."""
        return all(followed.is_connected for followed in self._needed)

    @property
    def busy(self) -> str:
        """The PVs that say that a file is still being written; empty when none does."""
        return ", ".join(name for name, on in self._busy.items() if on)

    def name_for(self, scan: Ended) -> str:
        """The name that the file PV had when the scan ended, or the first that it got afterwards; empty if unknown."""
        before = [name for at_ns, name in self._names if at_ns <= scan.at_ns]
        after = [name for at_ns, name in self._names if at_ns > scan.at_ns]
        return before[-1] if before else after[0] if after else ""

    def close(self) -> None:
        """End the monitors."""
        for followed in self._followed:
            followed.close()

    def _named(self, update: Any) -> None:
        value = update_value(update)
        if isinstance(value, str) and value:
            self._names.append((update_time_ns(update), value))

    def _noting(self, name: str) -> Callable[[Any], None]:
        def note(update: Any) -> None:
            self._busy[name] = bool(update_value(update))

        return note

    def _triggered(self, update: Any) -> None:
        value, before = update_value(update), self._last
        self._last = value
        if before is None:  # how things stand, not that they changed
            return
        happened = {
            "falls": bool(before) and not value,
            "rises": bool(value) and not before,
            "changes": value != before and bool(value),
        }
        if not happened[self._when]:
            return
        scan = Ended(update_time_ns(update))
        if isinstance(value, str):
            self._names.append((scan.at_ns, value))
        self._ended.append(scan)


class AutoSubmit:
    """`Scan:Auto`: submits each scan once, when its file is complete, also if it ended while this IOC was down."""

    def __init__(
        self,
        ioc: IocServer,
        settings: AutoSection,
        trigger: Trigger,
        scans: Scans,
        folder: Path,
        seen: Path,
    ) -> None:
        """`folder` is where scan files lie, `seen` the file that says when this was last at work."""
        self._ioc, self._settings, self._trigger, self._scans = ioc, settings, trigger, scans
        self._folder, self._seen = folder, seen
        self._waiting: list[Ended] = []
        self._noted_s = 0.0
        self._on_since_s = time.time()
        ioc.listen(pvs.AUTO, self._switched)

    async def serve(self) -> None:
        """Work until cancelled."""
        if self._ioc.value(pvs.AUTO):
            await self._catch_up()
        while True:
            try:
                await self._look()
            except OSError as error:
                self._ioc.tell(pvs.SCAN_MESSAGE, f"scans are not watched: {error}", Severity.MAJOR)
            await asyncio.sleep(PERIOD_S)

    def _switched(self, on: int) -> None:
        """What ended while this was off is not submitted later either."""
        self._trigger.ended()
        self._waiting = []
        self._noted_s, self._on_since_s = 0.0, time.time()

    async def _look(self) -> None:
        self._show_state()
        ended = self._trigger.ended()
        if self._ioc.value(pvs.AUTO):
            self._waiting += ended
            self._note()
        for scan in list(self._waiting):
            if await self._settle(scan):
                self._waiting.remove(scan)
        if self._ioc.value(pvs.WAITING_SCANS) != len(self._waiting):
            self._ioc.post(pvs.WAITING_SCANS, len(self._waiting))

    def _show_state(self) -> None:
        state = (WATCHING if self._trigger.is_connected else DISCONNECTED) if self._ioc.value(pvs.AUTO) else OFF
        if self._ioc.value(pvs.AUTO_STATE) != state:
            self._ioc.post(pvs.AUTO_STATE, state)

    async def _settle(self, scan: Ended) -> bool:
        """Submit a scan whose file is complete; tell whether nothing more is to be done about it."""
        if scan.path is None:
            scan.path = self._path(self._trigger.name_for(scan))
        if scan.path is not None:
            supplement = self._scans.supplement(scan.path)
            scan.waits_for = self._trigger.busy or await asyncio.to_thread(incomplete, scan.path, supplement)
            if not scan.waits_for:
                await self._submit(scan.path)
                return True
        if time.monotonic() - scan.since_s < self._settings.wait_s:
            return False
        name = scan.path.name if scan.path else "a scan"
        text = f"{name} is not submitted: after {self._settings.wait_s:g} s it still waits for {scan.waits_for}"
        self._ioc.tell(pvs.SCAN_MESSAGE, text, Severity.MAJOR)
        return True

    def _path(self, name: str) -> Path | None:
        """The file as this computer sees it."""
        if not name:
            return None
        there, here = self._settings.replace_prefix
        return Path(here + name.removeprefix(there) if there and name.startswith(there) else name)

    async def _submit(self, path: Path) -> None:
        try:
            await self._scans.accept(path, once=True, min_frames=self._settings.min_frames)
        except (ActionFailed, Refused) as error:
            severity = Severity.MINOR if isinstance(error, Refused) else Severity.MAJOR
            self._ioc.tell(pvs.SCAN_MESSAGE, f"{path.name} is not submitted: {error}", severity)

    async def _catch_up(self) -> None:
        """Look for scans that ended while nobody watched: files newer than when this was last at work."""
        seen = await asyncio.to_thread(self._read_seen)
        if seen is None:
            return
        seen_s, self._on_since_s = seen
        since_s = max(seen_s - _BACKWARDS_S, self._on_since_s)
        for path in await asyncio.to_thread(self._newer, since_s):
            self._waiting.append(Ended(0, path=path))

    def _newer(self, since_s: float) -> list[Path]:
        changed_s: dict[Path, float] = {}
        for pattern in self._settings.patterns:
            for path in self._folder.rglob(pattern):
                at_s = path.stat().st_mtime
                if at_s >= since_s:
                    changed_s[path] = at_s
        for path in list(changed_s):
            for other in self._belonging(path):
                changed_s.pop(other, None)
        return sorted(changed_s, key=lambda path: (changed_s[path], path))

    def _belonging(self, path: Path) -> Iterable[Path]:
        """The files that are no scans of their own, but belong to one."""
        supplement = self._scans.supplement(path)
        try:
            siblings = sibling_files(path, supplement.numbered)
        except ScanFileError:  # what is missing or damaged shows when its scan is looked at
            siblings = ()
        return siblings if supplement.position_file is None else (*siblings, supplement.position_file)

    def _read_seen(self) -> tuple[float, float] | None:
        """When this was last at work, and since when it had been on."""
        try:
            seen = json.loads(self._seen.read_text())
            return float(seen["seen_s"]), float(seen["on_since_s"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _note(self) -> None:
        """Keep on the disk that scans are watched now, so that the next start knows from when on they were not.

        Scans that still wait are looked for again then: the time kept is from before they ended.
        """
        if self._waiting or time.monotonic() - self._noted_s < SEEN_PERIOD_S:
            return
        self._noted_s = time.monotonic()
        with replaced_file(self._seen) as part:
            part.write_text(json.dumps({"seen_s": time.time(), "on_since_s": self._on_since_s}))
