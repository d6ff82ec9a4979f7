"""Ports and processes of one test: nothing that another test run on this machine could meet."""

import json
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from iocs.config import Network

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEADLINE_S = 600.0
CLIENT_S = 45.0
"""How long caproto's clients wait where nobody says otherwise; 2 s without it."""
BLOCK = 8


class Ports:
    """A block of free ports, held against other test runs by a bound socket for as long as this one lives."""

    def __init__(self):
        for base in random.SystemRandom().sample(range(12_000, 32_000, BLOCK), 200):
            self._guard = socket.socket()
            try:
                self._guard.bind(("127.0.0.1", base))
                for port in range(base + 1, base + 5):
                    _check_free(port)
            except OSError:
                self._guard.close()
                continue
            self.network = Network(ca_port=base + 1, pva_port=base + 3, pva_broadcast_port=base + 4)
            self.spare = base + 5
            return
        raise RuntimeError("no free ports")

    def close(self):
        self._guard.close()

    def environment(self):
        """This process's environment with the test's EPICS settings and no others."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("EPICS_")}
        paths = f"{ROOT}{os.pathsep}{HERE}"
        patience = {"CAPROTO_DEFAULT_TIMEOUT": str(CLIENT_S)}
        return inherited | self.network.environment() | patience | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}

    def toml(self):
        """The [network] section of a configuration file."""
        n = self.network
        return (
            f"[network]\nca_port = {n.ca_port}\npva_port = {n.pva_port}\npva_broadcast_port = {n.pva_broadcast_port}\n"
        )


def _check_free(port):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            probe.bind(("", port))


class Process:
    """An IOC in a process of its own; its log is kept and must hold no traceback in the end."""

    def __init__(self, arguments, environment, folder):
        self.log = folder / f"ioc-{len(list(folder.glob('ioc-*.log')))}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._wait_until_it_serves()

    def _wait_until_it_serves(self):
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(DEADLINE_S):
                self.kill()
                raise TimeoutError(f"nothing said in {DEADLINE_S} s: {self.log.read_text()}")
        line = self.process.stdout.readline().decode()
        if "serving" not in line:
            self.kill()
            raise RuntimeError(f"the IOC did not start: {line} {self.log.read_text()}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self):
        """SIGTERM; the seconds that it took to end."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(DEADLINE_S)
        finally:
            self.kill()
        seconds = time.monotonic() - began
        log = self.log.read_text()
        assert status == 0, log
        provoked = len(re.findall(r"^KeyError: 'oops'", log, re.MULTILINE))
        assert log.count("Traceback") == provoked and "never retrieved" not in log, log
        return seconds


def tool(name):
    """A command line tool of this Python's environment."""
    return str(Path(sys.executable).with_name(name))


def run(arguments, environment, folder, *, status=0):
    """What a command prints on standard output and error."""
    done = subprocess.run(
        arguments, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout, done.stderr


def call(function, arguments, environment, folder):
    """What `function(*arguments)` returns in a process of its own: EPICS clients read their environment once."""
    script = f"import json, sys; from {function.__module__} import {function.__name__} as f; "
    script += "print('\\n' + json.dumps(f(*json.loads(sys.argv[1]))))"
    printed, _ = run([sys.executable, "-c", script, json.dumps(arguments)], environment, folder)
    return json.loads(printed.splitlines()[-1])
