"""An IOC for tests: the real declarations of one IOC, with handlers that clients can steer. Arguments: IOC, prefix."""

import asyncio
import logging
import sys

from iocs.record import ActionFailed, Refused
from iocs.server import IocServer
from phasing.errors import PhaselineError
from pvdb import Severity
from pvdb import workflow as w

SERVED = __file__
PREFIX = "T:"
AREAS = {"detector": "Det", "workflow": "Workflow", "edge": "Edge"}
LONG_TEXT = "ü" * 2000


class Workflow:
    """`Flow:Run` and `Train:Start` run until `Train:Standby` is put; the others end at once, each in its own way."""

    def __init__(self, server):
        self.server = server
        self.go_on = asyncio.Event()
        actions = {
            w.RUN: self.wait,
            w.START: self.wait_and_clean_up,
            w.SUBMIT: self.fail,
            w.RETRY: self.break_down,
            w.ROLLBACK: self.refuse,
            w.ACCEPT: self.show_alarms,
        }
        for pv, action in actions.items():
            server.on_action(pv, action)
        setpoints = {
            w.STANDBY: self.release,
            w.HOLD: self.not_on,
            w.SELECT: self.fail_to_set,
            w.NUM_EPOCHS: self.break_down_to_set,
            w.EPOCHS: self.at_most_100,
        }
        for pv, accept in setpoints.items():
            server.on_set(pv, accept)
        server.on_call(w.FETCH, self.fetch)

    async def wait(self):
        await self.go_on.wait()

    async def wait_and_clean_up(self):
        try:
            await self.go_on.wait()
        finally:
            await asyncio.sleep(0)
            self.server.tell(w.TRAIN_MESSAGE, "cleaned up")

    async def fail(self):
        raise PhaselineError("no such file")

    async def break_down(self):
        raise KeyError("oops")

    async def refuse(self):
        raise Refused("there is nothing to go back to")

    async def show_alarms(self):
        self.server.post(w.DISK_FREE, 0.5)
        self.server.post(w.LOSS, float("nan"))
        self.server.post(w.TRAIN_STATE, w.TRAIN_STATE.states.index("Failed"))
        self.server.post(w.LOSS_HISTORY, [3.0, 2.0, 1.5])
        self.server.post(w.VAL_LOSS, 0.25, severity=Severity.MINOR, message="doubtful")
        self.server.post(w.PROPOSAL, "p" * 100)
        self.server.tell(w.FLOW_MESSAGE, LONG_TEXT, Severity.MAJOR)

    async def release(self, value):
        self.go_on.set() if value else self.go_on.clear()

    async def not_on(self, value):
        if value:
            raise Refused("not now")

    async def fail_to_set(self, value):
        raise ActionFailed(f"the edge refused version {value}")

    async def break_down_to_set(self, value):
        raise KeyError("oops")

    async def at_most_100(self, value):
        return min(value, 100)

    async def fetch(self, query):
        if query["version"] == "7":
            return {"card": "a card", "data": b"\x00\x01\xff"}
        if query["version"] == "8":
            raise PhaselineError("there is no version 8")
        raise KeyError("oops")


async def main(ioc, prefix):
    server = IocServer(ioc, AREAS[ioc], prefix)
    if ioc == "workflow":
        Workflow(server)
    await server.serve(lambda: print("serving", flush=True))


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    asyncio.run(main(*sys.argv[1:]))
