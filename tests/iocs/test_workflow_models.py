"""Models in the workflow IOC with the real registry: what is active, announced and refused, without an edge."""

import asyncio
import json
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from made_models import card, constant_onnx

import iocs.workflow_models
from iocs.edge_link import Refusal
from iocs.edge_models import Announcement
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.workflow_models import Models
from phasing.store import Registry
from pvdb import Pv, Severity
from pvdb import workflow as pvs

BETTER_ONLY, ALWAYS, MANUAL = range(3)


class Ioc:
    """What `Models` asks of its IOC: the PVs' values and the handlers, without serving them."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.values: dict[Pv, Any] = {pvs.GATE: BETTER_ONLY}
        self.handlers: dict[Pv, Callable[..., Awaitable[Any]]] = {}

    def value(self, pv: Pv) -> Any:
        return self.values[pv]

    def post(self, pv: Pv, value: Any, *, severity: Severity | None = None, message: str = "") -> None:
        self.values[pv] = value

    def tell(self, pv: Pv, text: str, severity: Severity = Severity.NO_ALARM) -> None:
        self.values[pv] = text

    def on_set(self, pv: Pv, handler: Callable[..., Awaitable[Any]]) -> None:
        self.handlers[pv] = handler

    on_action = on_call = on_set


class Link:
    """The link to an edge that the test plays: `running` and `refused` are the edge's updates."""

    def __init__(
        self,
        prefix: str,
        *,
        running: Callable[[int], None],
        refused: Callable[[Refusal], None],
        trusted: Callable[[float], None],
    ) -> None:
        self.running, self.refused, self.trusted = running, refused, trusted

    def close(self) -> None:
        pass


class Place:
    """A registry, the models above it, and rounds that leave small real networks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.registry = Registry(folder / "registry")
        self.ioc = Ioc()
        self.models = Models(
            cast(IocServer, self.ioc),
            self.registry,
            "test",
            prefix="T:",
            margin=0.0,
            scan_margin=None,
            edge_timeout_s=0.05,
            trusted=lambda ratio: None,
        )

    @property
    def link(self) -> Link:
        return cast(Link, self.models._link)

    @property
    def active(self) -> int:
        assert self.models.active is not None
        return self.models.active.version

    @property
    def announced(self) -> Announcement:
        return Announcement.parse(self.ioc.values[pvs.ANNOUNCED])

    def corrupt(self, version: int) -> None:
        """Cut the end off a version's bytes."""
        digest = self.registry.card(version).digest
        path = self.folder / "registry" / "objects" / digest[:2] / digest
        path.write_bytes(path.read_bytes()[:-10])

    @property
    def states(self) -> list[str]:
        return [str(entry.state) for entry in self.registry.versions()]

    def export(self, round_id: str, phase_rad: float, val_loss: float, parent: int | None = None) -> dict[str, Any]:
        """What the register step of a round is given; the same phase gives the same bytes."""
        folder = self.folder / round_id
        folder.mkdir()
        onnx = constant_onnx(phase_rad)
        draft = replace(card(1, onnx, parent=parent), version=0, val_loss=val_loss, created_s=time.time())
        if parent is not None:
            draft = replace(draft, incumbent_val_loss=self.registry.card(parent).val_loss)
        (folder / "model.onnx").write_bytes(onnx)
        (folder / "model.json").write_text(json.dumps(draft.to_json()))
        (folder / "checkpoint.pt").write_bytes(round_id.encode())
        files = {"onnx": folder / "model.onnx", "card": folder / "model.json", "checkpoint": folder / "checkpoint.pt"}
        return {name: str(path) for name, path in files.items()}

    async def register(self, body: dict[str, Any]) -> dict[str, Any]:
        """Register as the runner does, in a thread; what it posts has been posted when this returns."""
        result = await asyncio.to_thread(self.models.register, body)
        await _turns()
        return result

    async def two_versions(self) -> None:
        """Version 1 retired, its successor 2 active."""
        await self.register(self.export("one", 0.1, 0.5))
        await self.register(self.export("two", 0.2, 0.4, parent=1))
        assert self.states == ["retired", "active"]

    async def put(self, pv: Pv, *value: int) -> None:
        """What a client's put does."""
        try:
            await self.ioc.handlers[pv](*value)
        finally:
            await _turns()


async def _turns() -> None:
    """Let the loop do all that is due."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
def in_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Place], Awaitable[None]]], None]:
    """Runs a check in an event loop, at a place of its own."""
    monkeypatch.setattr(iocs.workflow_models, "EdgeLink", Link)

    async def main(check: Callable[[Place], Awaitable[None]]) -> None:
        await check(Place(tmp_path))

    return lambda check: asyncio.run(main(check))


InLoop = Callable[[Callable[[Place], Awaitable[None]]], None]


def test_what_is_announced_is_what_is_active_when_a_put_meets_a_round(in_loop: InLoop) -> None:
    """A put of Select comes when the round's thread has changed the registry and has not announced yet."""

    async def check(place: Place) -> None:
        await place.two_versions()
        changed, overtaken = threading.Event(), threading.Event()
        real = place.registry.set_active

        def set_active(version: int, reason: str = "", *, lineage: str | None = None) -> None:
            real(version, reason, lineage=lineage)
            if threading.current_thread() is threading.main_thread():
                overtaken.set()
            else:
                changed.set()
                overtaken.wait(0.2)  # in vain where one waits for the other

        place.registry.set_active = set_active  # type: ignore[method-assign]
        body = place.export("three", 0.3, 0.3, parent=2)
        registering = asyncio.create_task(place.register(body))
        await asyncio.to_thread(changed.wait)
        with pytest.raises(ActionFailed, match="has not taken version 1"):
            await place.put(pvs.SELECT, 1)
        await registering
        assert place.announced.version == place.active == 1

    in_loop(check)


@pytest.mark.parametrize("refusal_first", [True, False])
def test_a_refused_model_gives_way_whichever_the_edge_tells_first(in_loop: InLoop, refusal_first: bool) -> None:
    """Over a new link the refusal may be heard before what the edge runs."""

    async def check(place: Place) -> None:
        await place.two_versions()
        updates = [
            lambda: place.link.refused(Refusal(2, place.announced.serial, "too slow")),
            lambda: place.link.running(1),
        ]
        for update in updates if refusal_first else reversed(updates):
            update()
        await _turns()
        assert place.announced.version == place.active == 1
        assert place.states == ["active", "refused"]
        assert place.ioc.values[pvs.MODEL_MESSAGE] == "the edge refused version 2: too slow"

    in_loop(check)


def test_a_refusal_of_what_is_no_longer_announced_changes_nothing(in_loop: InLoop) -> None:
    async def check(place: Place) -> None:
        await place.two_versions()
        place.link.refused(Refusal(2, place.announced.serial - 1, "too slow"))
        place.link.running(1)
        await _turns()
        assert place.announced.version == place.active == 2

    in_loop(check)


@pytest.mark.parametrize(
    ("pv", "value", "version"),
    [(pvs.SELECT, (1,), 1), (pvs.ROLLBACK, (), 1), (pvs.ACCEPT, (), 3)],
    ids=["Select", "Rollback", "Accept"],
)
def test_a_corrupted_model_does_not_go_live_by_any_put(
    in_loop: InLoop, pv: Pv, value: tuple[int, ...], version: int
) -> None:
    async def check(place: Place) -> None:
        await place.two_versions()
        place.ioc.values[pvs.GATE] = MANUAL
        await place.register(place.export("three", 0.3, 0.3, parent=2))
        announced, states = place.announced, place.states
        place.corrupt(version)
        with pytest.raises(Refused, match=f"model version {version} is corrupted"):
            await place.put(pv, *value)
        assert (place.announced, place.states) == (announced, states)

    in_loop(check)


def test_the_same_bytes_from_another_round_are_judged_anew(in_loop: InLoop) -> None:
    async def check(place: Place) -> None:
        await place.register(place.export("one", 0.1, 0.5))
        worse = await place.register(place.export("worse", 0.2, 0.9, parent=1))
        assert worse["verdict"].startswith("refused")
        place.ioc.values[pvs.GATE] = ALWAYS
        again = await place.register(place.export("again", 0.2, 0.9, parent=1))
        assert again["version"] == place.announced.version == place.active == 3
        assert place.states == ["retired", "refused", "active"]
        assert place.ioc.values[pvs.VERDICT].startswith("accepted")

    in_loop(check)


def test_a_round_whose_registering_was_cut_off_registers_one_model(in_loop: InLoop) -> None:
    """The call is made again with the same body; the gate has decided, and is not asked again."""

    async def check(place: Place) -> None:
        await place.register(place.export("one", 0.1, 0.5))
        body = place.export("worse", 0.2, 0.9, parent=1)
        first = await place.register(body)
        place.ioc.values |= {pvs.GATE: ALWAYS, pvs.VERDICT: ""}
        assert await place.register(body) == first
        assert place.states == ["active", "refused"]
        assert place.ioc.values[pvs.VERDICT] == first["verdict"]

    in_loop(check)


def test_a_round_cut_off_before_the_gate_has_its_model_judged(in_loop: InLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(place: Place) -> None:
        body = place.export("one", 0.1, 0.5)
        with monkeypatch.context() as patch:
            patch.setattr(Models, "_judge", _die)
            with pytest.raises(InterruptedError):
                await place.register(body)
        assert place.states == ["candidate"]
        await place.register(body)
        assert place.states == ["active"]

    in_loop(check)


def _added(place: Place, *, lineage: str = "test") -> int:
    """A network without a loss, as `phaseline model add` registers it; with weights where of another lineage."""
    onnx = constant_onnx(0.7)
    path = place.folder / "foreign.onnx"
    path.write_bytes(onnx)
    draft = replace(card(1, onnx), version=0, lineage=lineage, val_loss=None, scans=(), losses=(), val_losses=())
    return place.registry.publish(path, None if lineage == "test" else path, draft).version


@pytest.mark.parametrize("lineage", ["test", "another"])
def test_a_model_without_a_loss_serves_but_is_nothing_that_a_round_is_compared_with(
    in_loop: InLoop, lineage: str
) -> None:
    async def check(place: Place) -> None:
        await place.register(place.export("one", 0.1, 0.5))
        assert place.models.parent is not None
        version = _added(place, lineage=lineage)
        with pytest.raises(ActionFailed, match=f"has not taken version {version}"):
            await place.put(pvs.SELECT, version)
        place.link.running(version)
        await _turns()
        assert place.announced.version == place.active == version
        assert place.ioc.values[pvs.CANDIDATE] == 1
        assert place.models.parent is None  # the next round begins anew
        result = await place.register(place.export("anew", 0.3, 0.1))
        assert result["verdict"] == f"waits for Accept: version {version} is live, which it was not compared with"
        assert place.active == version
        assert place.ioc.values[pvs.CANDIDATE] == result["version"]
        with pytest.raises(ActionFailed, match="has not taken version 3"):
            await place.put(pvs.ACCEPT)
        assert place.active == 3
        assert place.models.parent is not None

    in_loop(check)


def test_a_model_of_another_lineage_that_nobody_chose_is_no_way_back(in_loop: InLoop) -> None:
    async def check(place: Place) -> None:
        version = _added(place, lineage="another")
        await place.register(place.export("first", 0.1, 0.5))
        place.link.refused(Refusal(2, place.announced.serial, "too slow"))
        place.link.running(version)
        await _turns()
        assert place.active == 2
        assert "no way back to 1: it is of lineage another" in place.ioc.values[pvs.MODEL_MESSAGE]

    in_loop(check)


def _die(*arguments: object) -> str:
    raise InterruptedError
