"""An edge IOC that only shows which model it runs and what it refused, for tests of the workflow.

Arguments: prefix. Each line on standard input is a JSON object: running (version), refused (text), ratio (number) or
scan_state (text). Prints `ready`.
"""

import asyncio
import json
import sys
import threading

from iocs.server import IocServer
from pvdb import edge as pvs

PVS = {
    "running": pvs.MODEL,
    "refused": pvs.REFUSED,
    "ratio": pvs.CONSISTENCY_RATIO,
    "scan_state": pvs.SCAN_STATE,
}


def obey(ioc: IocServer) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        for name, value in command.items():
            ioc.post(PVS[name], PVS[name].states.index(value) if name == "scan_state" else value)


async def main() -> None:
    ioc = IocServer("edge", "Edge", sys.argv[1])
    threading.Thread(target=obey, args=(ioc,), daemon=True).start()
    await ioc.serve(lambda: print("ready", flush=True))


asyncio.run(main())
