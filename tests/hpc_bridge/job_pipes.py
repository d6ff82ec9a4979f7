"""Named pipes between a test and the jobs it starts: opening never blocks, and every wait has a deadline."""

import os
import select

DEADLINE_S = 600.0


class Pipe:
    """Both ends of a named pipe; a job may open either of them whenever it comes to it."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = str(path)
        self._file = os.fdopen(os.open(path, os.O_RDWR), "r+b", buffering=0)

    def line(self):
        """The next line that a job wrote."""
        assert select.select([self._file], [], [], DEADLINE_S)[0], f"nothing was written into {self.path}"
        return self._file.readline().decode().strip()

    def silent(self):
        """Whether no line waits to be read."""
        return not select.select([self._file], [], [], 0)[0]

    def send(self, text):
        """Let one job that waits for a line go on."""
        self._file.write(text.encode() + b"\n")

    def close(self):
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def wait_for_death(pid):
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    gone = select.select([handle], [], [], DEADLINE_S)[0]
    os.close(handle)
    assert gone, f"process {pid} lives on"
