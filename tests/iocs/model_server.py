"""A workflow IOC that only announces models from a folder, for tests of the edge.

Arguments: prefix, folder. Each line on standard input is a JSON object: version, and optionally lie (bytes that do
not fit the digest), hold (its fetches wait for a line with release) and fail (how many fetches give no answer).
Prints `ready`.
"""

import asyncio
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from iocs.edge_models import Announcement
from iocs.server import IocServer
from phasing.errors import PhaselineError
from pvdb import workflow as pvs


class Announcer:
    def __init__(self, prefix: str, folder: Path) -> None:
        self._folder = folder
        self._lie = False
        self._held: set[str] = set()
        self._fail = 0
        self._ioc = IocServer("workflow", "Workflow", prefix)
        self._ioc.on_call(pvs.FETCH, self._fetch)

    async def serve(self) -> None:
        threading.Thread(target=self._obey, daemon=True).start()
        await self._ioc.serve(lambda: print("ready", flush=True))

    def _obey(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            if command.get("release"):
                self._held.clear()
                continue
            self._lie = command.get("lie", False)
            self._fail = command.get("fail", 0)
            version = command["version"]
            if command.get("hold"):
                self._held.add(str(version))
            digest = json.loads((self._folder / f"{version}.json").read_text())["digest"]
            self._ioc.post(pvs.ANNOUNCED, str(Announcement(version, digest, time.time_ns() // 1_000_000)))

    async def _fetch(self, arguments: dict[str, str]) -> dict[str, Any]:
        version = arguments["version"]
        while version in self._held:
            await asyncio.sleep(0.02)
        if self._fail:
            self._fail -= 1
            raise PhaselineError("the registry is busy")
        content = (self._folder / f"{version}.onnx").read_bytes()
        card = (self._folder / f"{version}.json").read_text()
        return {"card": card, "data": content[:-1] if self._lie else content}


async def main() -> None:
    await Announcer(sys.argv[1], Path(sys.argv[2])).serve()


asyncio.run(main())
