"""The command line: `phaseline`."""

import argparse
import asyncio
import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from iocs import flow_command, model_command
from iocs.config import Config, load, parse
from phasing.errors import PhaselineError

IOCS = ("detector", "workflow", "edge")
FAILED, INTERRUPTED = 1, 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command; the exit status is 0 when it did what was asked."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except PhaselineError as error:
        print(f"phaseline: {error}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"phaseline: {error.filename or 'a file'}: {error.strerror}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="phaseline", description="Live ptychography as EPICS soft IOCs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    ioc = _command(commands, "ioc", _ioc, "run one IOC")
    ioc.add_argument("ioc", choices=IOCS)
    ioc.add_argument("--attached", action="store_true", help="stop when standard input ends: its owner is gone")
    ioc.add_argument("--consumers", type=int, help="edge: processes that predict, under pvapy's streaming framework")
    _command(commands, "up", _up, "run all IOCs, each in its own process")
    _command(commands, "status", _status, "print what the IOCs show now")
    _command(commands, "env", _env, "print the EPICS environment that clients need")
    demo = _command(commands, "demo", _demo, "run the whole loop on this machine and write a report")
    demo.add_argument("--scan", type=Path, help="a scan file to replay instead of the simulated sample")
    demo.add_argument("--positions", type=int, help="positions of a simulated scan (the paper's have 963)")
    demo.add_argument("--poison", action="store_true", help="end with a round on shuffled labels: the gate refuses it")
    demo.add_argument("--output", type=Path, default=Path("demo-output"), help="folder of the report and the pictures")
    convert = _command(commands, "convert", _convert, "turn a Tike test scan (.npz, .npz.bz2) into a scan file")
    convert.add_argument("source", type=Path)
    convert.add_argument("target", type=Path)
    convert.add_argument("--energy-ev", type=float, required=True)
    convert.add_argument("--distance-m", type=float, required=True)
    convert.add_argument("--pixel-size-m", type=float, required=True)
    flow = commands.add_parser("flow", help="flow definitions and runs", description="Flow definitions and runs.")
    flow_command.declare(flow.add_subparsers(required=True, metavar="ACTION", dest="action"), _command, _prepared)
    globus = commands.add_parser("globus", help="the login at Globus", description="The login at Globus.")
    login = globus.add_subparsers(required=True, metavar="ACTION")
    _command(login, "login", _globus_login, "log in as a person, for an IOC that works in your name")
    model = commands.add_parser("model", help="models in the registry", description="Models in the registry.")
    model_command.declare(model.add_subparsers(required=True, metavar="ACTION"), _command, _prepared)
    return parser


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    """One command with the options that all have."""
    parser = commands.add_parser(name, help=text, description=text.capitalize() + ".")
    parser.add_argument("--config", type=Path, help="configuration file (TOML); without one, everything is loopback")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every put and event")
    parser.set_defaults(command=function)
    return parser


def _prepared(options: argparse.Namespace) -> Config:
    """The configuration, with its EPICS environment in force and logging set up."""
    config = load(options.config)
    config.apply_environment()
    level = logging.INFO if options.verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("caproto").setLevel(logging.WARNING)
    return config


def _ioc(options: argparse.Namespace) -> int:
    config = _prepared(options)
    if options.consumers is not None:
        edge = config.edge.model_dump() | {"consumers": options.consumers}
        config = parse(config.model_dump() | {"edge": edge}, where="--consumers")
    if options.attached:
        threading.Thread(target=_stop_at_end_of_input, daemon=True).start()
    module = importlib.import_module(f"iocs.{options.ioc}")  # after the environment is set: EPICS reads it on import
    asyncio.run(module.serve(config, lambda: print(f"{options.ioc}: serving {config.prefix}", flush=True)))
    return 0


def _stop_at_end_of_input() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _up(options: argparse.Namespace) -> int:
    _prepared(options)
    from iocs.suite import Suite

    with Suite(options.config, verbose=options.verbose) as suite:
        suite.say("Ctrl-C stops all IOCs; `phaseline env` prints what clients need")
        return suite.wait()


def _env(options: argparse.Namespace) -> int:
    for name, value in load(options.config).network.environment().items():
        print(f'export {name}="{value}"')
    return 0


def _status(options: argparse.Namespace) -> int:
    from iocs.status import print_status

    print_status(_prepared(options))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from iocs.demo import run

    return run(options.config, options.output, options.scan, positions=options.positions, poisoned=options.poison)


def _convert(options: argparse.Namespace) -> int:
    from phasing.convert import tike_to_scan

    path = tike_to_scan(
        options.source,
        options.target,
        energy_ev=options.energy_ev,
        distance_m=options.distance_m,
        pixel_size_m=options.pixel_size_m,
    )
    print(path)
    return 0


def _globus_login(options: argparse.Namespace) -> int:
    from iocs.workflow_globus import log_in

    log_in(_prepared(options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
