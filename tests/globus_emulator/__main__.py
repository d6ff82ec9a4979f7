"""The emulator as a process of its own: prints its address, ends with its standard input or SIGTERM.

Options: a JSON object with `state`, `port`, `collections` (id: folder), `endpoints` (id: number of workers), `secret`.
"""

import json
import signal
import sys
from pathlib import Path

from globus_emulator import Emulator
from hpc_bridge.workers import WorkerSetup


def main() -> None:
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    workers = {name: WorkerSetup(number, 0, 1, ()) for name, number in options["endpoints"].items()}
    collections = {name: Path(folder) for name, folder in options["collections"].items()}
    state = Path(options["state"])
    emulator = Emulator(state, collections, workers, port=options["port"], secret=options["secret"])
    try:
        print(emulator.web.url, flush=True)
        sys.stdin.read()
    except KeyboardInterrupt:
        pass
    finally:
        emulator.stop()


if __name__ == "__main__":
    main()
