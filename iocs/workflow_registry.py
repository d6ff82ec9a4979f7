"""The registry by PVs: the card of a version, models put in and taken out as files, deleting in two steps."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from iocs import model_add
from iocs.config import Config
from iocs.model_command import shown
from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from iocs.workflow_layout import Layout
from phasing.archive import export_model, import_model
from phasing.card import ModelCard
from phasing.errors import PhaselineError
from phasing.store import ModelState, Registry
from pvdb import workflow as pvs

ARCHIVE = ".zip"
Result = TypeVar("Result")


class RegistryControls:
    """The setpoint Model:Version, and the actions that mean that version or Model:File."""

    def __init__(self, ioc: IocServer, config: Config, layout: Layout, registry: Registry) -> None:
        """Register the handlers; files lie in the layout's exchange folder, and nowhere else."""
        self._ioc, self._config, self._exchange, self._registry = ioc, config, layout.exchange, registry
        self._exchange.mkdir(parents=True, exist_ok=True)
        ioc.on_set(pvs.MODEL_VERSION, self._show)
        ioc.on_set(pvs.MODEL_FILE, self._name_file)
        ioc.on_action(pvs.ADD, self._add)
        ioc.on_action(pvs.EXPORT, self._export)
        ioc.on_action(pvs.DELETE, self._delete)

    async def _show(self, version: int) -> None:
        """Show the card of a version; 0 shows none."""
        card = await asyncio.to_thread(self._card, version) if version else ""
        self._ioc.post(pvs.CARD, card)

    async def _name_file(self, name: str) -> None:
        if name and (Path(name).name != name or name.startswith(".")):
            raise Refused(f"{name!r} is no name of a file in {self._exchange}")

    async def _add(self) -> None:
        path = self._file()
        card = await self._done(lambda: self._taken_in(path))
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {card.version} is {path.name}, lineage {card.lineage}")

    async def _export(self) -> None:
        path, version = self._file(), self._ioc.value(pvs.MODEL_VERSION)
        if path.suffix != ARCHIVE:
            raise Refused(f"an exported model is called NAME{ARCHIVE}, not {path.name}")
        await self._done(lambda: export_model(self._registry, version, path))
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {version} is written to {path}")

    async def _delete(self) -> None:
        version = self._ioc.value(pvs.MODEL_VERSION)
        marked = await self._done(lambda: self._registry.entry(version).state is ModelState.DELETING)
        step = self._registry.delete if marked else self._registry.mark_for_deletion
        await self._done(lambda: step(version))
        said = "is deleted" if marked else "is marked for deletion: put Delete again, or put it live to keep it"
        self._ioc.tell(pvs.MODEL_MESSAGE, f"version {version} {said}")

    def _card(self, version: int) -> str:
        try:
            entry = self._registry.entry(version)
            return shown(entry, has_weights=self._registry.checkpoint_path(version) is not None)
        except PhaselineError as error:
            raise Refused(str(error)) from error

    def _file(self) -> Path:
        name = self._ioc.value(pvs.MODEL_FILE)
        if not name:
            raise Refused("Model:File names no file")
        return self._exchange / str(name)

    def _taken_in(self, path: Path) -> ModelCard:
        if path.suffix == ARCHIVE:
            return import_model(self._registry, path)
        return model_add.add(self._config, model_add.defaults(path))

    async def _done(self, step: Callable[[], Result]) -> Result:
        """Do something that takes its time, in a thread."""
        try:
            return await asyncio.to_thread(step)
        except PhaselineError as error:
            raise ActionFailed(str(error)) from error
