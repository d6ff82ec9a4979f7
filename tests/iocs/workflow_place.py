"""A real workflow IOC below a folder of its own, started and stopped as often as a test wants, with a client of it."""

from contextlib import ExitStack, closing
from pathlib import Path

from following import Following
from harness import start_ioc, write_config

from pvdb import Pv

PATIENCE_S = 600.0


class WorkflowPlace:
    """The IOC, its client, and what else ends with the IOC in `parts`."""

    def __init__(self, folder: Path, prefix: str, settings: str, *watched: Pv) -> None:
        """Write the configuration and start; `watched` are the PVs that the client follows."""
        self.folder, self._prefix, self._watched = folder, prefix, watched
        (folder / "data" / "scans").mkdir(parents=True)
        self.config = write_config(folder, prefix, settings)
        self.parts = ExitStack()
        self.start()

    def start(self) -> None:
        """Start the IOC, as after `stop`."""
        ioc = start_ioc("workflow", self.config)
        self.parts.callback(ioc.stop)
        self.client = self.parts.enter_context(closing(Following(self._prefix)))
        self.client.watch(*self._watched)

    def stop(self) -> None:
        """Stop the IOC and what runs beside it."""
        self.parts.close()

    def until(self, condition: object, what: str) -> None:
        """Wait until a condition on the client's values holds."""
        self.client.wait(condition, what, PATIENCE_S)  # type: ignore[arg-type]
