"""Models in the workflow IOC: registering what a round made, the gate, what is announced, going back."""

import asyncio
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hpc_bridge.documents import Parent
from hpc_bridge.ports import Json
from iocs.edge_link import EdgeLink, Refusal
from iocs.edge_models import Announcement
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from phasing.card import ModelCard
from phasing.errors import ModelError, PhaselineError
from phasing.gate import GateMode, judge
from phasing.store import Entry, ModelState, Registry
from pvdb import Severity, state_name
from pvdb import workflow as pvs

REGISTRY_PERIOD_S = 1.0


class Models:
    """Owns the registry's active model and the announcement; all PVs of `Model:`."""

    def __init__(
        self,
        ioc: IocServer,
        registry: Registry,
        lineage: str,
        *,
        prefix: str,
        margin: float,
        scan_margin: float | None,
        edge_timeout_s: float,
        trusted: Callable[[float], None],
    ) -> None:
        """Register the handlers and announce the model that is active now.

        `trusted` hears of the edge's figure of trust at the end of every scan.
        """
        self._ioc, self._registry, self.lineage = ioc, registry, lineage
        self._margin, self._scan_margin, self._edge_timeout_s = margin, scan_margin, edge_timeout_s
        self._announced: Announcement | None = None
        self._choosing = threading.RLock()  # held from the look at what is active until its successor is announced
        self._running = self._replaced = 0  # versions: what the edge runs, what was active before
        self._refusal: Refusal | None = None
        self._edge_moved = asyncio.Condition()
        self._link = EdgeLink(prefix, running=self._edge_runs, refused=self._edge_refused, trusted=trusted)
        ioc.on_set(pvs.SELECT, self._select)
        ioc.on_action(pvs.ACCEPT, self._accept)
        ioc.on_action(pvs.ROLLBACK, self._rollback)
        ioc.on_call(pvs.FETCH, self._fetch)
        active = registry.active(lineage)
        if active is not None:
            self._announce(active)
        self._following = asyncio.create_task(self._follow_registry(registry.standing()))
        self._show()

    def close(self) -> None:
        """End the link to the edge, and the look at the registry; from any thread while the loop runs."""
        self._ioc.loop.call_soon_threadsafe(self._following.cancel)
        self._link.close()

    def follow(self, lineage: str) -> None:
        """Go on with the models of another lineage: its active one is announced, if it has one.

        Otherwise what is live stays live until the first round of the lineage has made a model.
        """
        if lineage == self.lineage:
            return
        with self._choosing:
            self.lineage = lineage
            active = self.active
            if active is not None:
                self._announce(active)
        self._show()

    @property
    def active(self) -> ModelCard | None:
        """The model that should be live."""
        return self._registry.active(self.lineage)

    @property
    def parent(self) -> Parent | None:
        """The model that the next round starts from: the active one, with its weights checked by digest.

        None when there is none, or when it is no model of ours: one without weights, or of another lineage.
        """
        active = self.active
        if active is None or active.lineage != self.lineage:
            return None
        checkpoint = self._registry.checkpoint_path(active.version)
        return None if checkpoint is None else Parent(active.version, checkpoint)

    def register(self, made: Json) -> Json:
        """Take in what a round made, judge it, announce it when it passes; called in a thread that may wait.

        `made` names the files onnx, card and checkpoint.
        Called again for the same round after a crash, it finds the model that it has registered already.
        """
        draft = ModelCard.from_json(json.loads(Path(made["card"]).read_text()))
        entry = self._known(draft) or self._published(made, draft)
        version = entry.card.version
        self._ioc.loop.call_soon_threadsafe(self._show)  # the candidate is shown before it is announced
        reason = self._judge(entry.card) if entry.state is ModelState.CANDIDATE else entry.reason
        self._ioc.post(pvs.VERDICT, reason)
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {version} {reason}")
        self._ioc.loop.call_soon_threadsafe(self._show)
        return {"version": version, "verdict": reason}

    def _known(self, draft: ModelCard) -> Entry | None:
        """The entry that this very round has made, told by the time of its export.

        Another round may leave the same bytes: they are a new candidate, for gate and incumbent may have changed.
        """
        entries = self._registry.versions(draft.lineage)
        made = (draft.digest, draft.created_s)
        return next((e for e in entries if (e.card.digest, e.card.created_s) == made), None)

    def _published(self, made: Json, draft: ModelCard) -> Entry:
        card = self._registry.publish(Path(made["onnx"]), Path(made["checkpoint"]), draft)
        return self._registry.entry(card.version)

    def _judge(self, card: ModelCard) -> str:
        """Pass the candidate through the gate; returns what it said."""
        with self._choosing:
            return self._decide(card, GateMode(state_name(pvs.GATE, self._ioc.value(pvs.GATE))))

    def _decide(self, card: ModelCard, mode: GateMode) -> str:
        active = self.active
        if active is not None and active.version != card.parent and mode is GateMode.BETTER_ONLY:
            # Its figures compare it with its parent, which is not what it would replace.
            return f"waits for Accept: version {active.version} is live, which it was not compared with"
        verdict = judge(
            card.val_loss,
            card.incumbent_val_loss,
            mode,
            self._margin,
            scan_losses=card.scan_losses,
            scan_margin=self._scan_margin,
        )
        if verdict.accepted:
            self._make_active(card, verdict.reason)
        elif not verdict.pending:
            self._registry.refuse(card.version, verdict.reason)
        return verdict.reason

    def _make_active(self, card: ModelCard, reason: str) -> Announcement:
        """Let a version serve: in the registry first, then announced; safe from any thread.

        One at a time, so that what is announced last is what the registry has as active.
        """
        with self._choosing:
            former = self.active
            self._registry.set_active(card.version, reason, lineage=self.lineage)
            if former is not None and former.version != card.version:
                self._replaced = former.version
            return self._announce(card)

    def _announce(self, card: ModelCard) -> Announcement:
        announced = self._announced = Announcement(card.version, card.digest, time.time_ns() // 1_000_000)
        # By the loop's queue, also from the loop itself: posted at once, it could overtake one that still waits there.
        self._ioc.loop.call_soon_threadsafe(self._ioc.post, pvs.ANNOUNCED, str(announced))
        return announced

    # what the edge says

    def _edge_runs(self, version: int) -> None:
        self._running = version
        self._ioc.post(pvs.ACTIVE_MODEL, version)
        self._wake()
        self._go_back()
        self._show()

    def _edge_refused(self, refusal: Refusal) -> None:
        self._refusal = refusal
        self._wake()
        if self._refused() is not None:
            self._ioc.tell(pvs.MODEL_MESSAGE, _told(refusal), Severity.MAJOR)
        self._go_back()
        self._show()

    def _refused(self) -> Refusal | None:
        """The edge's refusal of what is announced now."""
        refusal, announced = self._refusal, self._announced
        return refusal if refusal and announced and refusal.serial == announced.serial else None

    def _go_back(self) -> None:
        """Take back a model that the edge refused: what it runs stays what is registered as active.

        Called whenever the edge tells something, for its refusal may be heard before what it runs.
        """
        with self._choosing:
            refusal = self._refused()
            if refusal is None or self._running in (0, refusal.version):
                return
            try:
                card = self._registry.card(self._running)
                if card.lineage != self.lineage and card.version != self._replaced:
                    raise ModelError(f"it is of lineage {card.lineage}")
                self._make_active(card, _told(refusal))
                self._registry.refuse(refusal.version, refusal.reason)
            except ModelError as error:
                text = f"{_told(refusal)}; no way back to {self._running}: {error}"
                self._ioc.tell(pvs.MODEL_MESSAGE, text, Severity.MAJOR)

    def _wake(self) -> None:
        task = asyncio.create_task(self._notify())
        task.add_done_callback(lambda done: done.exception())

    async def _notify(self) -> None:
        async with self._edge_moved:
            self._edge_moved.notify_all()

    async def _live(self, version: int, reason: str) -> None:
        """Put a version live and wait until the edge runs it; ActionFailed with the edge's reason.

        Refused, with nothing changed, when the version is not there or not whole. One of another lineage may be put
        live: the edge says when frames are not of its geometry, and it is no round's parent.
        """
        try:
            card = self._registry.card(version)
            await asyncio.to_thread(self._registry.onnx_bytes, version)
        except ModelError as error:
            raise Refused(str(error)) from error
        if card.lineage != self.lineage:
            reason = f"{reason}, of lineage {card.lineage}"
        announced = self._make_active(card, reason)
        try:
            async with asyncio.timeout(self._edge_timeout_s), self._edge_moved:
                await self._edge_moved.wait_for(
                    lambda: self._running == card.version or self._refused_since(announced.serial)
                )
        except TimeoutError:
            text = f"the edge has not taken version {card.version} in {self._edge_timeout_s:g} s; it stays announced"
            raise ActionFailed(text) from None
        if self._running != card.version and self._refusal is not None:
            raise ActionFailed(_told(self._refusal))
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {card.version} is live: {reason}")
        self._show()

    def _refused_since(self, serial: int) -> bool:
        return self._refusal is not None and self._refusal.serial == serial

    # what clients ask

    async def _select(self, version: int) -> None:
        await self._live(version, "selected")

    async def _accept(self) -> None:
        candidate = self._ioc.value(pvs.CANDIDATE)
        if candidate == 0:
            raise Refused("there is no candidate")
        await self._live(candidate, "accepted by hand")

    async def _rollback(self) -> None:
        active = self.active
        if active is None or active.parent is None:
            raise Refused("the active model has no parent to go back to: use Select")
        await self._live(active.parent, f"rolled back from version {active.version}")

    async def _fetch(self, arguments: dict[str, str]) -> dict[str, Any]:
        """`Model:Fetch(version)`: the card as JSON and the network's bytes, read in a thread and verified."""
        try:
            version = int(arguments["version"])
        except (KeyError, ValueError):
            raise PhaselineError("Fetch takes one argument: version") from None
        content = await asyncio.to_thread(self._registry.onnx_bytes, version)
        card = self._registry.card(version)
        return {"card": json.dumps(card.to_json()), "data": content}

    async def _follow_registry(self, shown: frozenset[tuple[object, ...]]) -> None:
        """Show what another process changes, such as `phaseline model add`, and announce what one puts live.

        `shown`: how the registry stood until now.
        """
        trouble = ""
        while True:
            await asyncio.sleep(REGISTRY_PERIOD_S)
            try:
                standing = await asyncio.to_thread(self._registry.standing)
                if standing != shown:
                    self._take_up()
                    self._show()
                shown, trouble = standing, ""
            except ModelError as error:
                if str(error) != trouble:
                    self._ioc.tell(pvs.MODEL_MESSAGE, str(error), Severity.MAJOR)
                trouble = str(error)

    def _take_up(self) -> None:
        """Announce what another process has made active."""
        with self._choosing:
            active, announced = self.active, self._announced
            if active is None or (announced is not None and announced.version == active.version):
                return
            self._replaced = 0 if announced is None else announced.version
            self._announce(active)
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {active.version} was made active in the registry")

    def _show(self) -> None:
        """Post candidate, losses and the table: this lineage's models, those added by hand, and what is active."""
        active = self.active
        entries = self._registry.choices(self.lineage)
        made = [e for e in entries if e.card.lineage == self.lineage and e.card.val_loss is not None]
        if made:
            newest = made[-1].card
            self._ioc.post(pvs.CANDIDATE, newest.version)
            self._ioc.post(pvs.CANDIDATE_VAL_LOSS, _number(newest.val_loss))
            incumbent = newest.incumbent_val_loss
            self._ioc.post(
                pvs.ACTIVE_VAL_LOSS,
                _number(incumbent),
                message="" if incumbent is not None else "there was no incumbent to compare with",
            )
            self._ioc.post(
                pvs.SCAN_LOSSES,
                [
                    (one.scan_id, one.num_frames, one.val_loss, _number(one.incumbent_val_loss), int(one.is_new))
                    for one in newest.scan_losses
                ],
            )
        rows = [
            (
                e.card.version,
                e.card.parent or 0,
                str(ModelState.ACTIVE if active is not None and e.card.version == active.version else e.state),
                _number(e.card.val_loss),
                _number(e.card.incumbent_val_loss),
                len(e.card.scans),
                e.card.created_s,
            )
            for e in reversed(entries)
        ]
        self._ioc.post(pvs.MODEL_TABLE, rows)


def _number(loss_rad: float | None) -> float:
    """A loss as a PV shows it."""
    return float("nan") if loss_rad is None else loss_rad


def _told(refusal: Refusal) -> str:
    return f"the edge refused version {refusal.version}: {refusal.reason}"
