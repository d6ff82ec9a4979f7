"""A process that runs flows until all have ended; the tests kill it and start it again on the same folder.

Arguments: the folder, the number of runs, and where to kill itself, or ``-``: just before a provider's action is begun
(``run``), just after (``begun``), when its end is seen (``ended``) and when it is forgotten (``release``), each counted
for each provider: ``begun:3``. It prints ``done`` at the end.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path

from hpc_bridge.function_provider import FunctionProvider
from hpc_bridge.local_compute import COMPUTE_URL, LocalCompute
from hpc_bridge.local_transfer import TRANSFER_URL, LocalTransfer
from hpc_bridge.ports import Json
from hpc_bridge.runner import FlowRunner
from hpc_bridge.workers import WorkerSetup

DEADLINE_S = 600.0


def flow(log: str) -> Json:
    def compute(tag: str, following: str) -> Json:
        kwargs = {"log": log, "tag.$": f"$.tags.{tag}"}
        parameters = {"endpoint_id": "local", "tasks": [{"function_id": "note", "kwargs": kwargs}]}
        return _action(COMPUTE_URL, parameters, tag, Next=following)

    files = [{"source_path.$": "$.file", "destination_path.$": "$.file"}]
    transfer = {"source_endpoint": "a", "destination_endpoint": "b", "DATA": files}
    registration = {"tasks": [{"function_id": "register", "kwargs": {"tag.$": "$.tags.register"}}]}
    states = {
        "Transfer": _action(TRANSFER_URL, transfer, "transfer", Next="First"),
        "First": compute("first", "Second"),
        "Second": compute("second", "Register"),
        "Register": _action("https://register.test", registration, "register", End=True),
    }
    return {"StartAt": "Transfer", "States": states}


def _action(url: str, parameters: Json, name: str, **more: object) -> Json:
    return {
        "Type": "Action",
        "ActionUrl": url,
        "Parameters": parameters,
        "ResultPath": f"$.{name}",
        "WaitTime": 60,
    } | more


class Killed:
    """A provider that kills its process at one moment of its n-th action."""

    def __init__(self, inner, moment, number):
        self.inner, self.moment, self.number = inner, moment, number
        self.cancel, self.notify = inner.cancel, inner.notify
        self.passed = Counter()

    def run(self, request_id, body):
        self.maybe_die("run")
        action_id = self.inner.run(request_id, body)
        self.maybe_die("begun")
        return action_id

    def status(self, action_id):
        status = self.inner.status(action_id)
        if status.status.ended:
            self.maybe_die("ended")
        return status

    def release(self, action_id):
        self.maybe_die("release")
        self.inner.release(action_id)

    def maybe_die(self, moment):
        self.passed[moment] += 1
        if moment == self.moment and self.passed[moment] == self.number:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, runs: int, kill: str) -> None:
    log = folder / "log"

    def register(body: Json) -> Json:
        with log.open("a") as file:
            file.write(f"{body['tag']} {os.getpid()}\n")
        return {}

    jobs = {"note": "bridge_jobs:note"}
    setup = {"local": WorkerSetup(workers=2, warm=(), niceness=0)}
    transfer = LocalTransfer({"a": folder / "a", "b": folder / "b"}, folder / "transfer.sqlite")
    compute = LocalCompute(jobs, setup, folder / "compute.sqlite")
    function = FunctionProvider({"register": register}, folder / "function.sqlite")
    moment, _, number = kill.partition(":")
    providers = {
        url: Killed(provider, moment, int(number or 0))
        for url, provider in {TRANSFER_URL: transfer, COMPUTE_URL: compute, "https://register.test": function}.items()
    }
    runner = FlowRunner(folder / "runs.sqlite", providers, max_active={"run": 3})
    with runner:
        names = [f"run{number}" for number in range(runs)]
        for name in names:
            tags = {tag: f"{name}.{tag}" for tag in ("first", "second", "register")}
            runner.submit(flow(str(log)), {"file": f"/{name}.h5", "tags": tags}, name, run_id=name)
        for name in names:
            runner.wait(name, DEADLINE_S)
    for provider in (transfer, compute, function):
        provider.stop()
    print("done", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
