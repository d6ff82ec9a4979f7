"""Real IOC processes for tests, on ports of this test process alone."""

import atexit
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loopback import Ports

START_S = 600.0
STOP_S = 300.0
"""Longer than whatever the IOCs themselves wait for in the end."""
LOOK_S = 0.02
"""How often is looked at processes that are nobody's children here."""


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
        self.told = 0
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

    def count(self, line: str) -> int:
        """How often the child has printed a line."""
        with self._heard:
            return self.lines.count(line)

    def wait_count(self, line: str, number: int, timeout_s: float = START_S) -> None:
        """Wait until the child has printed a line that often; AssertionError with the log when it does not."""
        with self._heard:
            self._heard.wait_for(lambda: self.lines.count(line) >= number or self.process.poll() is not None, timeout_s)
            found = self.lines.count(line)
        assert found >= number, f"not {number} times {line!r}: {self.lines[-20:]}\n{self._log.read_text()[-3000:]}"

    def tell(self, line: str) -> None:
        """Write a line to the child."""
        self.told += 1
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
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # also children that were stopped: they hold our pipe
            raise
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


def ioc_command(name: str, config: Path, constants: str = "") -> list[str]:
    """The command line of one IOC; `constants` is code that changes the product's before it begins."""
    program = ["-c", f"import sys; {constants}; from iocs.cli import main; sys.exit(main())"]
    return [sys.executable, *(program if constants else ("-m", "iocs.cli")), "ioc", name, "--config", str(config)]


def start_ioc(name: str, config: Path, constants: str = "") -> Process:
    """One IOC by the command line, serving when this returns."""
    command = [*ioc_command(name, config, constants), "--verbose", "--attached"]
    return _ready(Process(command, config.parent / f"{name}.log"), lambda line: "serving" in line)


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
    return _ready(Process([sys.executable, str(path), *map(str, arguments)], log), lambda line: line == "ready")


def _ready(process: Process, condition: Callable[[str], bool]) -> Process:
    """A process that has said so; one that has not is not left behind."""
    try:
        process.wait_line(condition)
    except BaseException:
        process.kill()
        raise
    return process


def wait_gone(pids: list[int]) -> None:
    """Wait until processes have ended; AssertionError naming those that have not."""
    deadline = time.monotonic() + START_S
    left = pids
    while left:
        left = [pid for pid in left if alive(pid)]
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(LOOK_S)


def alive(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # it may end between opening and reading
        return False
