"""An edge IOC that only shows which model it runs and what it refused, for tests of the workflow.

Arguments: prefix. Each line on standard input is a JSON object: running (version) or refused (text). Prints `ready`.
"""

import asyncio
import json
import sys
import threading

from iocs.server import IocServer
from pvdb import edge as pvs


def obey(ioc: IocServer) -> None:
    for line in sys.stdin:
        command = json.loads(line)
        if "running" in command:
            ioc.post(pvs.MODEL, command["running"])
        else:
            ioc.post(pvs.REFUSED, command["refused"])


async def main() -> None:
    ioc = IocServer("edge", "Edge", sys.argv[1])
    threading.Thread(target=obey, args=(ioc,), daemon=True).start()
    await ioc.serve(lambda: print("ready", flush=True))


asyncio.run(main())
