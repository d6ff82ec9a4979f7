"""The processes of the set-up: each a child that ends with its owner, and the channels by which it is spoken to."""

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping

import pvaccess as pva

log = logging.getLogger("phaseline.edge")

RESTART_DELAY_S = 1.0
ANSWER_S = 1.0
STOP_S = 5.0


class Child:
    """One tool of the framework in a process of its own, which ends with this one."""

    def __init__(
        self, name: str, arguments: Callable[[], list[str]], environment: Mapping[str, str] | None = None
    ) -> None:
        """`arguments` is asked at every start; `environment` comes on top of ours."""
        self.name, self._arguments, self._environment = name, arguments, environment or {}
        self._due_s = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def pid(self) -> int:
        """The process that runs now, or ran last."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the tool."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "iocs.edge_consumer_child", *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            env={**os.environ, **self._environment},
        )

    def died(self) -> int | None:
        """The status of a process that has just ended; None while it runs, and after it was told once."""
        if self._process is None:
            return None
        status = self._process.poll()
        if status is not None:
            self.let_go()
            self._process, self._due_s = None, time.monotonic() + RESTART_DELAY_S
        return status

    def start_again_if_due(self) -> bool:
        """Start one that died a while ago; whether it did."""
        if self._process is not None or time.monotonic() < self._due_s:
            return False
        self.start()
        return True

    def renew(self) -> None:
        """Have it ended, and another started when what it depends on is there again."""
        self.end()
        self._process, self._due_s = None, time.monotonic() + 2 * RESTART_DELAY_S

    def let_go(self) -> None:
        """Tell it to end."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def end(self) -> None:
        """Have it ended."""
        if self._process is None:
            return
        self.let_go()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Link:
    """The control and status channels of one tool."""

    def __init__(self, control: str, status: str) -> None:
        self._control, self._status = pva.Channel(control), pva.Channel(status)
        for channel in (self._control, self._status):
            channel.setTimeout(ANSWER_S)

    def order(self, command: str, said: str = "") -> None:
        """Send a command of the framework's; one that does not arrive is sent again with the next look."""
        put = pva.PvObject({"command": pva.STRING, "args": pva.STRING}, {"command": command, "args": said})
        try:
            self._control.put(put, "field(command,args)")
        except pva.PvaException as error:
            log.info("%s: %s", self._control.getName(), error)

    def said(self, name: str) -> str:
        """What the tool's processor last said of itself; empty if it said nothing."""
        try:
            return str(self._status.get("field(userStats)")["userStats"][name])
        except pva.PvaException as error:
            log.info("%s: %s", self._status.getName(), error)
            return ""
