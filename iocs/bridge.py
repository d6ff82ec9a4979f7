"""What every bridge of the workflow IOC is: where files and jobs of its flows go, whichever services carry them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpc_bridge.definition import FlowDefinition
from hpc_bridge.endpoints import Stoppable
from hpc_bridge.ports import Json
from hpc_bridge.remote_files import FileReader
from hpc_bridge.site import Site
from phasing.errors import PhaselineError

RECONSTRUCT, TRAIN, REGISTER = "reconstruct", "train", "register"
"""Names of the endpoints that jobs run on: a reconstruction never waits for a training round."""


class SiteError(PhaselineError):
    """A folder that nothing may be computed in; the text names the configuration's key."""


class Elsewhere(Protocol):
    """Another place that runs whole flows."""

    def wrapped(self, name: str, document: Json) -> tuple[FlowDefinition, Json]:
        """What is submitted here for a flow that runs there. Raises BridgeError when it cannot."""


@dataclass(frozen=True)
class Bridge:
    """Where flows of this installation run.

    providers: of the actions, by URL. site_at: the site whose computed files lie below a root; raises SiteError for one
    that is not configured. files: reads what jobs write, over a network if `is_remote`. flows: runs whole flows
    elsewhere; None where the IOC's own runner runs them. rest: has what trains give its processes and nodes back while
    it has nothing to do (True), or stop doing so; where compute is another service's, that sees to it itself.
    """

    providers: dict[str, Stoppable]
    site_at: Callable[[Path], Site]
    files: FileReader
    is_remote: bool = False
    flows: Elsewhere | None = None
    rest: Callable[[bool], None] = lambda on: None

    def stop(self) -> None:
        """Stop every provider."""
        for provider in self.providers.values():
            provider.stop()
