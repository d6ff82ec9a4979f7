"""Named errors of the bridge; the text of each is the one clear line that the operator reads."""

from phasing.errors import PhaselineError


class BridgeError(PhaselineError):
    """Base of everything that goes wrong between a flow and the place where its actions run."""


class DefinitionError(BridgeError):
    """A flow definition that the service would refuse or silently mis-run; the text names the state."""


class TaskFailed(BridgeError):
    """A task ran and failed, or could not run with the arguments it was given."""


class WorkerLost(BridgeError):
    """The process that ran a task died; what the task had done by then is unknown."""


class TaskTimeout(BridgeError):
    """A task did not end within its time limit and was stopped."""


class Cancelled(BridgeError):
    """A task was stopped because somebody asked for it."""


class BackendUnavailable(BridgeError):
    """The place where actions run cannot be reached or is taken by another process."""


class ConsentRequired(BridgeError):
    """The service asks for a consent that a person has to grant first."""
