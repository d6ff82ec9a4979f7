"""The beamline's own PVs that say where a scan begins and how long it is, in a process of their own.

Arguments: `pva` or `ca`, and a JSON object of PVs with their first values. Each line on standard input is a JSON object
of new values. Prints `ready`, and `done` after each line.
"""

import json
import sys
import time

import pvaccess as pva

STAMP = {"secondsPastEpoch": pva.LONG, "nanoseconds": pva.INT, "userTag": pva.INT}


def scalar(value):
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    stamp = {"secondsPastEpoch": seconds, "nanoseconds": nanoseconds}
    if isinstance(value, list):  # an enumeration: index and choices
        types = {"value": {"index": pva.INT, "choices": [pva.STRING]}, "timeStamp": STAMP}
        enumeration = {"index": value[0], "choices": value[1]}
        return pva.PvObject(types, {"value": enumeration, "timeStamp": stamp}, "epics:nt/NTEnum:1.0")
    kind = pva.STRING if isinstance(value, str) else pva.INT
    return pva.PvObject({"value": kind, "timeStamp": STAMP}, {"value": value, "timeStamp": stamp})


def serve_pva(pvs):
    server = pva.PvaServer()
    for name, value in pvs.items():
        server.addRecord(name, scalar(value))
    print("ready", flush=True)
    for line in sys.stdin:
        for name, value in json.loads(line).items():
            server.update(name, scalar(value))
        print("done", flush=True)


def serve_ca(pvs):
    from caproto.server import PVGroup, pvproperty, run

    async def obey(group, _instance, library):
        print("ready", flush=True)
        while line := await library.library.to_thread(sys.stdin.readline):
            for name, value in json.loads(line).items():
                await group.pvdb[name].write(value)
            print("done", flush=True)

    properties = {f"pv{number}": pvproperty(value=value, name=name) for number, (name, value) in enumerate(pvs.items())}
    properties["pv0"] = properties["pv0"].startup(obey)
    made = type("Beamline", (PVGroup,), properties)
    run(made(prefix="").pvdb, log_pv_names=False)


{"pva": serve_pva, "ca": serve_ca}[sys.argv[1]](json.loads(sys.argv[2]))
