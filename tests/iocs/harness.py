"""Real IOC processes for tests, on ports of this test process alone."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from loopback import Ports

START_S = 60.0
STOP_S = 10.0


PORTS = Ports()
atexit.register(PORTS.close)
CA_PORT = PORTS.network.ca_port
# EPICS libraries read these once in a process: every test of this process meets on them, told apart by prefix.
os.environ.update(PORTS.network.environment())


def write_config(folder: Path, prefix: str, text: str = "") -> Path:
    """A configuration file for this process's ports; `text` adds sections."""
    path = folder / "phaseline.toml"
    path.write_text(f'prefix = "{prefix}"\nroot = "{folder / "data"}"\n{PORTS.toml()}{text}')
    return path


class Process:
    """A child that prints a line when it is ready."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._log = log
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, start_new_session=True
            )
        self.lines: list[str] = []
        self._heard = threading.Condition()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def wait_line(self, condition: Callable[[str], bool], timeout_s: float = START_S) -> str:
        """The first line that fulfils the condition; AssertionError with the log when none comes."""
        with self._heard:
            found = self._heard.wait_for(
                lambda: any(map(condition, self.lines)) or self.process.poll() is not None, timeout_s
            )
            for line in self.lines:
                if condition(line):
                    return line
        raise AssertionError(f"no such line ({found=}): {self.lines}\n{self._log.read_text()[-3000:]}")

    def tell(self, line: str) -> None:
        """Write a line to the child."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL, as when somebody pulls the plug."""
        self.process.kill()
        self.process.wait()
        self._close()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        finally:
            self.process.kill()
            self.process.wait()
            self._close()

    def _close(self) -> None:
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._heard:
                self.lines.append(line.strip())
                self._heard.notify_all()
        with self._heard:
            self._heard.notify_all()


def start_ioc(name: str, config: Path) -> Process:
    """One IOC by the command line, serving when this returns."""
    command = [sys.executable, "-m", "iocs.cli", "ioc", name, "--config", str(config), "--verbose", "--attached"]
    process = Process(command, config.parent / f"{name}.log")
    process.wait_line(lambda line: "serving" in line)
    return process


@contextmanager
def running(name: str, config: Path) -> Iterator[Process]:
    """One IOC for the length of a block; it must end well when it is told to."""
    process = start_ioc(name, config)
    try:
        yield process
    finally:
        status = process.stop()
    assert status == 0


def start_script(path: Path, log: Path, *arguments: Any) -> Process:
    """A helper script of the tests, ready when this returns."""
    process = Process([sys.executable, str(path), *map(str, arguments)], log)
    process.wait_line(lambda line: line == "ready")
    return process


def descendants(pid: int) -> list[int]:
    """All children of a process, and theirs."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):  # what is being read may end meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                for child in (task / "children").read_text().split():
                    found += [int(child), *descendants(int(child))]
    return found


def wait_gone(pids: list[int]) -> None:
    """Wait until processes have ended; AssertionError naming those that have not."""
    deadline = time.monotonic() + START_S
    left = pids
    while left:
        left = [pid for pid in left if _alive(pid)]
        assert time.monotonic() < deadline, f"still there: {left}"


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False
