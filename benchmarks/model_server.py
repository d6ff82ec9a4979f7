"""A workflow IOC that only announces models and gives them out, a process of its own.

Arguments: prefix, folder of models. Each line on standard input is a JSON object: version. Answers with the Unix time
in nanoseconds when it is announced. Prints `ready`; ends with its standard input.
"""

import asyncio
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.frames import Material
from iocs.edge_models import Announcement
from iocs.server import IocServer
from pvdb import workflow as pvs


class ModelServer:
    """Serves the PVs of the workflow IOC that the edge follows."""

    def __init__(self, prefix: str, folder: Path) -> None:
        self._material = Material(folder)
        self._ioc = IocServer("workflow", "Workflow", prefix)
        self._ioc.on_call(pvs.FETCH, self._fetch)

    async def serve(self) -> None:
        """Serve until told to stop."""
        threading.Thread(target=self._obey, daemon=True).start()
        await self._ioc.serve(lambda: print("ready", flush=True))

    def _obey(self) -> None:
        for line in sys.stdin:
            version = json.loads(line)["version"]
            text = str(Announcement(version, self._material.read_card(version).digest, time.time_ns() // 1_000_000))
            self._ioc.loop.call_soon_threadsafe(self._ioc.post, pvs.ANNOUNCED, text)
            print(json.dumps({"announced_ns": time.time_ns()}), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    async def _fetch(self, arguments: dict[str, str]) -> dict[str, Any]:
        version = int(arguments["version"])
        return {"card": self._material.card(version).read_text(), "data": self._material.onnx(version).read_bytes()}


async def main(prefix: str, folder: Path) -> None:
    """Serve until told to stop."""
    await ModelServer(prefix, folder).serve()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
