"""Which model serves at the edge, and which is to serve next: announced, fetched, tried, live, or refused."""

import time
from collections import Counter
from collections.abc import Callable

from iocs.edge_messages import DropModel, LoadModel, ModelDropped, ModelRefused, Swapped
from iocs.edge_models import Announcement, Fetcher, KeptModel, ModelStore
from iocs.named_channel import open_channel
from iocs.server import IocServer
from phasing.errors import PhaselineError
from pvdb import Severity, full_name, workflow
from pvdb import edge as pvs

MODEL_IDLE, FETCHING, WARMING, REFUSED = range(4)
BUILDS_IN_TIME = 2.0
"""Times the limit of a trial that a model may take on its way through the stream process: its trial, then its build."""
DEATHS = 2
"""Stream processes that may die while the model is built that served before: it need not have been the model."""


class Succession:
    """Follows what the workflow IOC announces, and what the stream process says of the models it is given.

    The stream process gets one model at a time, by `send`; of those that wait, only the newest counts.
    """

    def __init__(
        self, ioc: IocServer, store: ModelStore, prefix: str, *, fetch_s: float, trial_s: float,
        send: Callable[[LoadModel | DropModel], bool],
    ) -> None:  # fmt: skip
        """`send` gives a stream process a command, and says whether there is one."""
        self._ioc, self._store, self._send = ioc, store, send
        self._limit_s = BUILDS_IN_TIME * trial_s
        procedure = full_name(prefix, workflow.FETCH)
        self._fetcher = Fetcher(store, procedure, fetch_s, done=self._fetch_ended)
        self._channel = open_channel(full_name(prefix, workflow.ANNOUNCED))
        self.live: KeptModel | None = None
        self._again = next(iter(store.served()), None)
        self._wanted: Announcement | None = None
        self._next: KeptModel | None = None
        self._building: KeptModel | None = None
        self._fetching: Announcement | None = None
        self._due_s = float("inf")
        self._deaths: Counter[str] = Counter()

    def watch(self) -> None:
        """Follow the announcements; the workflow IOC may come and go."""
        call = self._ioc.loop.call_soon_threadsafe
        self._channel.monitor(lambda update: call(self._announced, str(update["value"])), "field(value)")

    def close(self) -> None:
        """Follow no more."""
        self._channel.stopMonitor()

    @property
    def overdue(self) -> bool:
        """Whether the stream process takes longer over a model than it may."""
        return self._building is not None and time.monotonic() >= self._due_s

    # what the stream process goes through

    def begin(self) -> None:
        """A stream process was started: the model that served last serves again before any other."""
        waiting, self._next = self._next, None
        self._serve_again()
        if waiting is not None and not self._is_on_its_way(waiting.announcement):
            self._load(waiting)

    def _serve_again(self) -> None:
        again = self._again
        if again is None:
            return
        kept = self._store.get(again)
        if kept is not None:
            self._wanted = self._wanted or again
            self._load(kept)
        elif self._wanted is None or self._wants(again):
            self._ioc.tell(pvs.MESSAGE, f"model {again.version} is damaged on disk: fetched again", Severity.MINOR)
            self._fetch(again)

    def ended(self, reason: str) -> None:
        """The stream process is gone, and with it the model that served; one that was being built may be why."""
        building, self._building, self.live = self._building, None, None
        self._ioc.post(pvs.MODEL, 0)
        self._ioc.post(pvs.ENGINE, pvs.ENGINE.initial)
        if building is None:
            return
        served = self._served_last(building.announcement)
        self._deaths[building.announcement.digest] += 1
        if not served or self._deaths[building.announcement.digest] >= DEATHS:
            self._refuse(building.announcement, reason)

    def swapped(self, event: Swapped) -> None:
        """A model went live."""
        self.live, announcement = event.model, event.model.announcement
        self._again = announcement
        self._deaths.clear()
        self._ioc.post(pvs.ENGINE, event.engine)
        self._ioc.post(pvs.ENGINE_DIFFERENCE, event.difference_rad or 0.0)
        self._ioc.post(pvs.MODEL, announcement.version)
        remark = f"; {event.remark}" if event.remark else ""
        text = f"model {announcement.version} is live on {event.engine}{remark}"
        self._ioc.tell(pvs.MESSAGE, text, Severity.MINOR if remark else Severity.NO_ALARM)
        try:
            self._store.remember(announcement)
        except OSError as error:
            text = f"model {announcement.version} is live, but will not be after a restart: {error}"
            self._ioc.tell(pvs.MESSAGE, text, Severity.MAJOR)
        self._built()
        if self._wants(announcement):
            self._settle()
        elif self._wanted is not None and not self._is_on_its_way(self._wanted):
            self._fetch(self._wanted)  # this one went live in the moment in which another was wanted

    def refused(self, event: ModelRefused) -> None:
        """A model was not taken; if it is the one that served last, the one before is the next best."""
        again = self._again
        self._refuse(event.model.announcement, event.reason)
        self._built()
        if self.live is None and self._again is not again and self._wanted is None:
            self._serve_again()

    def dropped(self, event: ModelDropped) -> None:
        """A model that nobody wants any more was given back."""
        self._built()

    # what is announced

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
        if not new:
            return
        self._drop_others(announcement)
        if self._is_live(announcement):
            self._settle()
        elif not self._is_on_its_way(announcement):
            self._fetch(announcement)

    def _drop_others(self, announcement: Announcement) -> None:
        """Call off what is on its way and was wanted before; not the one that serves until the new one does."""
        if self._next is not None and not self._next.announcement.same_model(announcement):
            self._next = None
        building = self._building
        if building is None or building.announcement.same_model(announcement):
            return
        if not self._served_last(building.announcement):
            self._send(DropModel(building))

    def _wants(self, announcement: Announcement) -> bool:
        """Whether this model is the one announced last."""
        return self._wanted is not None and self._wanted.same_model(announcement)

    def _served_last(self, announcement: Announcement) -> bool:
        """Whether this model is the one that is to serve again in the next stream process."""
        return self._again is not None and self._again.same_model(announcement)

    def _is_live(self, announcement: Announcement) -> bool:
        return self.live is not None and self.live.announcement.same_model(announcement)

    def _is_on_its_way(self, announcement: Announcement) -> bool:
        kept = [model.announcement for model in (self._building, self._next) if model is not None]
        return any(announcement.same_model(one) for one in (*kept, self._fetching) if one is not None)

    def _fetch(self, announcement: Announcement) -> None:
        self._wanted = self._fetching = announcement
        self._ioc.post(pvs.MODEL_STATE, FETCHING)
        self._fetcher.want(announcement)

    def _fetch_ended(self, announcement: Announcement, found: KeptModel | str) -> None:
        self._ioc.loop.call_soon_threadsafe(self._fetched, announcement, found)

    def _fetched(self, announcement: Announcement, found: KeptModel | str) -> None:
        """Go on with a model that is here, or say why it is not; a newer announcement makes it void."""
        if self._fetching is not None and self._fetching.same_model(announcement):
            self._fetching = None
        if not self._wants(announcement) or self._is_live(announcement):
            return
        if isinstance(found, KeptModel):
            self._load(found)
        else:
            self._refuse(announcement, found)

    # one model after another

    def _load(self, kept: KeptModel) -> None:
        """Let the stream process build a model as soon as it is there and has built the one before."""
        self._next = kept
        if self._wants(kept.announcement):
            self._ioc.post(pvs.MODEL_STATE, WARMING)
        self._build_next()

    def _build_next(self) -> None:
        kept = self._next
        if kept is None or self._building is not None:
            return
        if self._send(LoadModel(kept, proven=self._store.has_served(kept.announcement))):
            self._building, self._next = kept, None
            self._due_s = time.monotonic() + self._limit_s

    def _built(self) -> None:
        self._building = None
        self._build_next()

    def _settle(self) -> None:
        """What is wanted serves: an old refusal is no alarm any more."""
        self._ioc.post(pvs.MODEL_STATE, MODEL_IDLE)
        self._ioc.post(pvs.REFUSED, self._ioc.value(pvs.REFUSED))

    def _refuse(self, announcement: Announcement, reason: str) -> None:
        """Say why a model is not taken; the former one serves on, and the next announcement is tried afresh."""
        text = f"model {announcement.version} refused: {reason}"
        serial = announcement.serial
        if self._wanted is not None and self._wanted.same_model(announcement):
            serial = self._wanted.serial
            self._wanted = self.live.announcement if self.live is not None else None
            self._ioc.post(pvs.MODEL_STATE, REFUSED)
        if self._served_last(announcement) and not self._is_live(announcement):
            self._forget(announcement)
        self._ioc.post(pvs.REFUSED, f"{announcement.version} {serial} {reason}", severity=Severity.MAJOR, message=text)
        self._ioc.tell(pvs.MESSAGE, text, Severity.MAJOR)

    def _forget(self, announcement: Announcement) -> None:
        """Serve no more what served before: it proves itself anew, if it is announced again."""
        try:
            self._store.forget(announcement)
        except OSError as error:
            self._ioc.tell(
                pvs.MESSAGE, f"model {announcement.version} is still noted as serving: {error}", Severity.MAJOR
            )
        self._again = next((one for one in self._store.served() if not one.same_model(announcement)), None)
        self._deaths.clear()
