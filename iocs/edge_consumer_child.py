"""One tool of pvapy's streaming framework as a child of the edge: it ends when its owner is gone.

Arguments: the tool (consumer, collector or mirror) and those of the tool. Standard input is a pipe that the owner
holds: its end is the owner's, also when that is killed.
"""

import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress

FAILED = 1
TOOLS = {"consumer": "hpcConsumer", "collector": "hpcCollector", "mirror": "mirrorServer"}


def vital(work: Callable[[], None]) -> Callable[[], None]:
    """A thread's work; should it fail, the process ends, for the owner sees that and starts another."""

    def run() -> None:
        ended_well = False
        try:
            work()
            ended_well = True
        finally:
            if not ended_well:
                traceback.print_exc()
                os._exit(FAILED)

    return run


def main() -> None:
    """Run a tool until standard input ends."""
    tool, *arguments = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the owner ends us
    threading.Thread(target=_end_with_owner, daemon=True).start()
    if tool == "collector":
        _collect_in_order()
    elif tool == "consumer":
        _consume_when_heard()
    elif tool == "mirror":
        _wait_and_end_with(arguments.pop(0))
    sys.argv = [f"pvapy-{tool}", *arguments]
    importlib.import_module(f"pvapy.cli.{TOOLS[tool]}").main()


def _end_with_owner() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os._exit(0)


def _collect_in_order() -> None:
    """Let the framework's collector make ours: it has no option for what waits and how long."""
    from pvapy.hpc import dataCollectorController

    from iocs.edge_consumer_merge import InOrder

    dataCollectorController.DataCollector = InOrder


def _consume_when_heard() -> None:
    """Let the framework's consumer be ours, which does not begin too early."""
    from pvapy.hpc import dataConsumerController

    from iocs.edge_processor import WhenHeard

    dataConsumerController.DataConsumer = WhenHeard


def _wait_and_end_with(source: str) -> None:
    """Wait for the source to mirror, and end when it goes: clients do not find a mirror again that only lost it.

    Before the mirror begins, and by being told: a source that is soon there again goes unseen by who only looks.
    """
    import pvaccess as pva

    channel = pva.Channel(source)
    while not channel.isConnected():
        with suppress(pva.PvaException):  # a channel connects when something is asked of it
            channel.get("field(uniqueId)")
    gone = threading.Event()
    channel.setConnectionCallback(lambda connected: None if connected else gone.set())

    def end() -> None:
        if channel.isConnected():
            gone.wait()
        os._exit(0)

    threading.Thread(target=end, daemon=True).start()


if __name__ == "__main__":
    main()
