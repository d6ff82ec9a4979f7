"""Child processes of a measurement: EPICS ports of their own, lines in and out, and none left behind."""

import json
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from iocs.config import Network

ROOT = Path(__file__).parents[1]
START_S = 120.0
STOP_S = 10.0
_BLOCK = 8


class BenchmarkError(Exception):
    """A measurement that could not be made; the text says why."""


def free_network() -> Network:
    """EPICS ports that nobody uses now, on loopback alone."""
    for base in random.SystemRandom().sample(range(12_000, 32_000, _BLOCK), 200):
        if all(_is_free(base + k) for k in range(4)):
            return Network(ca_port=base, pva_port=base + 2, pva_broadcast_port=base + 3)
    raise BenchmarkError("no free ports")


def _is_free(port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(socket.AF_INET, kind) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return False
    return True


def set_environment(network: Network) -> None:
    """Let this process and its children meet on `network` and nowhere else; before any EPICS library is imported."""
    for name in [name for name in os.environ if name.startswith("EPICS_")]:
        del os.environ[name]
    os.environ.update(network.environment())


class Child:
    """A process that prints a line when it is ready and then answers each JSON line with one; ended with its block."""

    def __init__(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        ready: str | None = "ready",
        extra: Mapping[str, str] | None = None,
    ) -> None:
        """Start this Python with `arguments` and wait for a line that holds `ready` (None: for nothing).

        log: receives its standard error. Raises BenchmarkError when it does not start.
        """
        self._log = log
        self._name = " ".join(arguments[:3])
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}
        with log.open("ab") as sink:
            # A group of its own: Ctrl-C reaches us alone, and its children end with it.
            self.process = subprocess.Popen(
                [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink,
                env=environment, cwd=ROOT, text=True, start_new_session=True,
            )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()
        if ready is not None:
            try:
                while ready not in self._line(START_S):
                    pass
            except BaseException:
                self.kill()
                raise

    def tell(self, **command: Any) -> None:
        """Send a command."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()
        except OSError as error:
            raise BenchmarkError(f"{self._name} is gone: {self._end_of_log()}") from error

    def answer(self, timeout_s: float = 60.0) -> Any:
        """The answer to the command before; BenchmarkError when none comes."""
        return json.loads(self._line(timeout_s))

    def ask(self, timeout_s: float = 60.0, **command: Any) -> Any:
        """Send a command and wait for its answer."""
        self.tell(**command)
        return self.answer(timeout_s)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL to its whole group if that does not help."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        self.kill()

    def kill(self) -> None:
        """SIGKILL to the process and all its children; none of them is worth keeping."""
        with suppress(ProcessLookupError):  # all of them may have ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._thread.join()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(BrokenPipeError):  # a command that nobody read
                if pipe is not None:
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _line(self, timeout_s: float) -> str:
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise BenchmarkError(f"{self._name} said nothing for {timeout_s:g} s: {self._end_of_log()}") from None
        if line is None:
            raise BenchmarkError(f"{self._name} ended: {self._end_of_log()}")
        return line

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())
        self._lines.put(None)

    def _end_of_log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


def children(pid: int) -> list[int]:
    """The living processes that a process has started, by whatever thread."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # what is being read may end meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All living children of a process, and theirs."""
    return [found for child in children(pid) for found in (child, *descendants(child))]


def command_line(pid: int) -> bytes:
    """The words of a process's command line, each with a NUL behind it; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
