"""`phaseline flow`: check, show, deploy and run definitions; list, cancel and retry the runs of the workflow IOC."""

import argparse
import json
import signal
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from hpc_bridge import definition
from hpc_bridge.definition import FlowDefinition
from hpc_bridge.errors import BridgeError, DefinitionError, TaskFailed
from hpc_bridge.journal import RunRow, RunStatus
from hpc_bridge.lint import targets
from iocs.config import Config

OURS = ("run", "round")
FOREGROUND = "foreground.sqlite"
WAIT_S = 0.5
PUT_S = 60.0


def declare(commands: Any, command: Callable[..., argparse.ArgumentParser], prepared: Callable[..., Config]) -> None:
    """Add the commands; `command` makes one, `prepared` reads the configuration and sets EPICS up."""

    def add(name: str, work: Callable[[Config, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        return command(commands, name, lambda options: work(prepared(options), options), text)

    named = f"{' or '.join(OURS)}, or a file"
    add("check", check, "say what is wrong with definitions").add_argument("flows", nargs="+", help=named)
    add("show", show, "print the states of a definition").add_argument("flow", help=named)
    add("deploy", deploy, "register jobs and flows at Globus").add_argument("flows", nargs="*", help=named)
    run = add("run", run_here, "run a definition here, in the foreground, without an IOC")
    run.add_argument("flow", help=named)
    run.add_argument("--input", type=Path, help="the run's document, a JSON object")
    run.add_argument("--resume", metavar="RUN", help="go on with a run that was interrupted")
    add("list", list_runs, "print the runs of the workflow IOC")
    for name, text in (("cancel", "cancel a run"), ("retry", "run a failed run from where it failed")):
        add(name, act, text).add_argument("run", nargs="?", default="", help="the run; without one, all there are")


def check(config: Config, options: argparse.Namespace) -> int:
    """Print every problem; 1 when there is one."""
    status = 0
    for name in options.flows:
        try:
            _flow(config, name)
            print(f"{name}: sound")
        except DefinitionError as error:
            status = 1
            print(*str(error).replace(": the flow definition is refused: ", ":\n  ").split("; "), sep="\n  ")
    return status


def show(config: Config, options: argparse.Namespace) -> int:
    """Print the states in the order in which they are written."""
    flow = _flow(config, options.flow)
    print(f"begins at {flow.start_at}")
    for name, state in flow.states.items():
        leads = [str(to) for to in targets(state)]
        print(f"{name}: {state['Type']}, {'then ' + ' or '.join(leads) if leads else 'the end'}")
        for key in ("Comment", "ActionUrl", "WaitTime"):
            if key in state:
                print(f"    {key}: {state[key]}{' s' if key == 'WaitTime' else ''}")
    return 0


def deploy(config: Config, options: argparse.Namespace) -> int:
    """Register the jobs and create or update the flows at Globus; print their ids."""
    from iocs.workflow_globus import remote_flows

    if config.bridge.adapter != "globus":
        raise TaskFailed('the configuration says nothing of Globus: set bridge.adapter = "globus"')
    flows = {_name(name): _flow(config, name) for name in options.flows or OURS}
    elsewhere = remote_flows(config)
    for name, flow_id in elsewhere.deploy(flows).items():
        print(f"flow {name}: {flow_id}")
    print("functions that the Compute endpoints have to allow:")
    for name, function_id in elsewhere.functions.registered().items():
        print(f"  {function_id}  # {name}")
    return 0


def run_here(config: Config, options: argparse.Namespace) -> int:
    """Run a definition with this configuration's providers; Ctrl-C leaves it to --resume."""
    from hpc_bridge.runner import FlowRunner
    from iocs.workflow_bridge import make_bridge
    from iocs.workflow_layout import Layout

    layout = Layout.below(config.root, config.scans)
    folder = layout.journal / "foreground"
    folder.mkdir(exist_ok=True)
    apart = Layout(layout.scans, layout.registry, folder)
    document = json.loads(options.input.read_text(encoding="utf-8")) if options.input else {}
    bridge = make_bridge(config, apart, _no_registry)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with FlowRunner(folder / FOREGROUND, bridge.providers) as runner:
            runner.subscribe(_print_move)
            run_id = options.resume or str(uuid.uuid4())
            if options.resume:
                runner.document(run_id)  # there has to be one
            else:
                runner.submit(_flow(config, options.flow), document, str(options.flow), run_id=run_id)
            return _follow(runner, run_id)
    finally:
        bridge.stop()


def list_runs(config: Config, options: argparse.Namespace) -> int:
    """Print Flow:Table."""
    from pvdb import workflow as pvs

    with closing(_client(config)) as client:
        table = client.get(pvs.FLOW_TABLE)
    for row in zip(*(table[name] for name in ("run", "kind", "state", "started", "message")), strict=True):
        run, kind, state, started, message = row
        begun = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(started)) if started else "not begun"
        print(f"{run}  {kind}  {state}  {begun}  {message}".rstrip())
    return 0


def act(config: Config, options: argparse.Namespace) -> int:
    """Put Flow:Selected and Flow:Cancel or Flow:Retry."""
    from pvdb import workflow as pvs

    action = pvs.CANCEL if options.action == "cancel" else pvs.RETRY
    with closing(_client(config)) as client:
        client.put(pvs.SELECTED_RUN, options.run)
        try:
            client.put(action, 1, timeout_s=PUT_S)
        finally:
            client.put(pvs.SELECTED_RUN, "")
    return 0


def _follow(runner: Any, run_id: str) -> int:
    while True:
        try:
            row = runner.wait(run_id, WAIT_S)
        except TimeoutError:
            continue
        except KeyboardInterrupt:
            print(f"interrupted; go on with: phaseline flow run FLOW --resume {run_id}")
            return 130
        print(f"{run_id}: {row.status.lower()} {row.message}".rstrip())
        return 0 if row.status is RunStatus.SUCCEEDED else 1


def _print_move(row: RunRow) -> None:
    if not row.status.ended:
        print(f"{row.run_id}: {row.status.lower()} in {row.state} {row.message}".rstrip(), flush=True)


def _no_registry(made: dict[str, Any]) -> dict[str, Any]:
    raise BridgeError("only the workflow IOC registers models")


def _flow(config: Config, name: str) -> FlowDefinition:
    return definition.deployable(name, config.bridge.run_flow) if name in OURS else definition.load(Path(name))


def _name(flow: str) -> str:
    return flow if flow in OURS else Path(flow).stem


def _client(config: Config) -> Any:
    from iocs.client import Client

    return Client(config.prefix)
