"""Switches that outlive the workflow IOC, without serving them."""

import asyncio
from pathlib import Path

import pytest

from iocs.record import Refused
from iocs.server import IocServer
from iocs.workflow_kept import KeptError, KeptSetpoints
from pvdb import workflow as pvs


class Switches(IocServer):
    """The workflow's PVs, and what the handlers of their setpoints do."""

    def __init__(self, path: Path) -> None:
        super().__init__("workflow", "Workflow", "K:")
        KeptSetpoints(self, path, pvs.GATE, pvs.STANDBY)

    async def put(self, pv: object, value: int) -> None:
        await self._records[pv].put(value, "test")  # type: ignore[index]

    @property
    def shown(self) -> tuple[int, int]:
        return self.value(pvs.GATE), self.value(pvs.STANDBY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "switches.json"


def test_what_was_put_is_shown_by_the_next_process(path: Path) -> None:
    async def first() -> None:
        switches = Switches(path)
        assert switches.shown == (0, 0)
        await switches.put(pvs.GATE, 2)
        await switches.put(pvs.STANDBY, 1)
        await switches.put(pvs.GATE, 1)

    async def second() -> None:
        assert Switches(path).shown == (1, 1)

    asyncio.run(first())
    asyncio.run(second())


def test_a_value_that_cannot_be_kept_is_refused(path: Path) -> None:
    async def check() -> None:
        switches = Switches(path / "of-no-folder")
        with pytest.raises(Refused, match="cannot be kept"):
            await switches.put(pvs.GATE, 2)
        assert switches.shown == (0, 0)

    asyncio.run(check())


@pytest.mark.parametrize("text", ["", "7", "[", '{"Model:Gate": "Sometimes"}', '{"Model:Gate": 1}'])
def test_a_spoiled_file_is_an_error_and_no_default(path: Path, text: str) -> None:
    path.write_text(text)

    async def check() -> None:
        with pytest.raises(KeptError, match=r"switches\.json"):
            Switches(path)

    asyncio.run(check())
