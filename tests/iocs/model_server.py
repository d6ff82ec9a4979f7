"""A workflow IOC that only announces models from a folder, for tests of the edge.

Arguments: prefix, folder. Each line on standard input is a JSON object: version, and optionally lie (bytes that do
not fit the digest), delay_s (of its fetch) and fail (how many fetches give no answer). Prints `ready`, and `done`
after each line.
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
        self._delays_s: dict[str, float] = {}
        self._fail = 0
        self._ioc = IocServer("workflow", "Workflow", prefix)
        self._ioc.on_call(pvs.FETCH, self._fetch)

    async def serve(self) -> None:
        threading.Thread(target=self._obey, daemon=True).start()
        await self._ioc.serve(lambda: print("ready", flush=True))

    def _obey(self) -> None:
        for line in sys.stdin:
            command = json.loads(line)
            self._lie = command.get("lie", False)
            self._fail = command.get("fail", 0)
            version = command["version"]
            self._delays_s[str(version)] = command.get("delay_s", 0.0)
            digest = json.loads((self._folder / f"{version}.json").read_text())["digest"]
            self._ioc.post(pvs.ANNOUNCED, str(Announcement(version, digest, time.time_ns() // 1_000_000)))
            print("done", flush=True)

    async def _fetch(self, arguments: dict[str, str]) -> dict[str, Any]:
        version = arguments["version"]
        await asyncio.sleep(self._delays_s[version])
        if self._fail:
            self._fail -= 1
            raise PhaselineError("the registry is busy")
        content = (self._folder / f"{version}.onnx").read_bytes()
        card = (self._folder / f"{version}.json").read_text()
        return {"card": card, "data": content[:-1] if self._lie else content}


async def main() -> None:
    await Announcer(sys.argv[1], Path(sys.argv[2])).serve()


asyncio.run(main())
