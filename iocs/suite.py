"""All IOCs of a configuration as child processes of one terminal."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from phasing.errors import PhaselineError

IOCS = ("detector", "workflow", "edge")
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
RELAY_TIMEOUT_S = 5.0
POLL_S = 0.2


class IocDied(PhaselineError):
    """An IOC ended by itself."""


class Suite:
    """Starts the IOCs, waits until they serve, stops them in the end."""

    def __init__(self, config: Path | None, *, verbose: bool = False, log: Path | None = None) -> None:
        """`log` takes what the IOCs print; without it they print here."""
        self._config, self._verbose = config, verbose
        self._log: IO[bytes] | None = log.open("wb") if log else None
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._relays: list[threading.Thread] = []
        self._printing = threading.Lock()

    def __enter__(self) -> Self:
        ready = {name: threading.Event() for name in IOCS}
        try:
            for name in IOCS:
                self._start(name, ready[name])
            deadline = time.monotonic() + START_TIMEOUT_S
            while not all(event.wait(POLL_S) for event in ready.values()):
                self.check()
                if time.monotonic() > deadline:
                    late = [name for name, event in ready.items() if not event.is_set()]
                    raise IocDied(f"not serving after {START_TIMEOUT_S:g} s: {', '.join(late)}")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def check(self) -> None:
        """IocDied when an IOC has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                raise IocDied(f"the {name} IOC ended with status {process.returncode}")

    def wait(self) -> int:
        """Wait until an IOC ends (its status) or Ctrl-C (0)."""
        try:
            while all(process.poll() is None for process in self.processes.values()):
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            return 0
        self.check()
        return 0

    def say(self, line: str) -> None:
        """Print a line whole, whoever else prints."""
        with self._printing:
            print(line, flush=True)

    def stop(self) -> None:
        """Stop all IOCs: SIGTERM, and SIGKILL for one that does not end in time."""
        for process in self.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in self.processes.values():
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()
        for thread in self._relays:
            thread.join(RELAY_TIMEOUT_S)  # whoever else holds an IOC's output keeps nobody from ending
        if self._log is not None:
            self._log.close()

    def _start(self, name: str, ready: threading.Event) -> None:
        command = [sys.executable, "-m", "iocs.cli", "ioc", name, "--attached"]
        command += ["--config", str(self._config)] if self._config else []
        command += ["--verbose"] if self._verbose else []
        # A session of its own: Ctrl-C then reaches this process alone, which stops the IOCs in order. Its end of their
        # standard input closes with it, however it dies, and no IOC is left behind.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self._log or None, stdin=subprocess.PIPE, start_new_session=True
        )
        self.processes[name] = process
        self._relays.append(threading.Thread(target=self._relay, args=(process, ready), daemon=True))
        self._relays[-1].start()

    def _relay(self, process: subprocess.Popen[bytes], ready: threading.Event) -> None:
        """Print what an IOC prints; its first line says that it serves."""
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                ready.set()
                if self._log is None:
                    self.say(line.decode(errors="replace").rstrip("\n"))
