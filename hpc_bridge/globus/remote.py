"""Actions whose work goes on at a service: remembered on the disk, begun once, looked at by one thread."""

import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from hpc_bridge.actions import ActionStore, StoredProvider
from hpc_bridge.errors import BackendUnavailable, BridgeError, Cancelled, ConsentRequired, TaskFailed, WorkerLost
from hpc_bridge.globus.errors import Consent
from hpc_bridge.ports import ActionState, ActionStatus, Json

logger = logging.getLogger(__name__)
REMOTE = "remote_id"


@dataclass
class Remote:
    """An open action: what is asked for, what is noted of it on the disk, and how it stood when last looked at."""

    action_id: str
    body: Json
    noted: Json
    status: ActionStatus = field(default_factory=lambda: ActionStatus(ActionState.ACTIVE))
    cancelled: bool = False
    released: bool = False

    @property
    def remote_id(self) -> str:
        """What the service calls it; empty before it has accepted it."""
        return str(self.noted.get(REMOTE, ""))


class RemoteProvider(StoredProvider):
    """Subclasses submit an action once and look at it; every call may wait for the network, in this thread.

    What is noted of an action is on the disk before anything is submitted, so that after a kill at any moment, or a
    reply that was lost, the next attempt finds what the first one began.
    """

    def __init__(self, path: Path, poll_s: float) -> None:
        """Open the store at ``path`` and take up what is open. Raises BackendUnavailable when another holds it."""
        super().__init__(ActionStore(path))
        self._poll_s = poll_s
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._stopping = False
        self._open = {
            action.action_id: Remote(action.action_id, action.body, action.noted) for action in self._store.unfinished()
        }
        self._thread = threading.Thread(target=self._work, name=type(self).__name__, daemon=True)
        self._thread.start()

    def prepare(self, remote: Remote) -> Json:
        """Return what must be known before the action is submitted, such as an id of ours that makes it unique."""
        return {}

    def submit(self, remote: Remote) -> str:
        """Submit the action, or find it if it was submitted before, and return the service's id for it."""
        raise NotImplementedError

    def look(self, remote: Remote) -> ActionStatus:
        """Ask the service how the action stands."""
        raise NotImplementedError

    def end(self, remote: Remote) -> None:
        """Ask the service to end the action."""
        raise NotImplementedError

    def begin(self, action_id: str, body: Json) -> None:
        """Hand the action to the thread."""
        with self._lock:
            self._open[action_id] = Remote(action_id, body, {})
        self._wake.set()

    def status(self, action_id: str) -> ActionStatus:
        """Tell how the action stood when the service was last asked."""
        remote = self._open.get(action_id)
        return remote.status if remote is not None and not remote.cancelled else super().status(action_id)

    def progress(self, action_id: str) -> Json:
        """Return what the service said last."""
        remote = self._open.get(action_id)
        return dict(remote.status.details) if remote else {}

    def halt(self, action_id: str) -> None:
        """Have the service end the action, as soon as it can be asked."""
        if remote := self._open.get(action_id):
            remote.cancelled = True
            self._wake.set()

    def release(self, action_id: str) -> None:
        """Forget an action that has ended, or will have."""
        if remote := self._open.get(action_id):
            remote.released = True
        else:
            super().release(action_id)

    def stop(self) -> None:
        """Join the thread and close; what runs at the service runs on, and is looked at again by the next process."""
        self._stopping = True
        self._wake.set()
        self._thread.join()
        self._store.close()

    def _work(self) -> None:
        while not self._is_stopping():
            self._wake.clear()
            with self._lock:
                remotes = list(self._open.values())
            for remote in remotes:
                if not self._is_stopping():
                    self._step(remote)
            self._wake.wait(self._poll_s if self._open else None)

    def _is_stopping(self) -> bool:
        return self._stopping

    def _step(self, remote: Remote) -> None:
        try:
            status = self._moved(remote)
        except Consent as error:
            details = {"description": str(error), "consent_url": error.url}
            status = ActionStatus(ActionState.INACTIVE, details)
        except ConsentRequired as error:
            status = ActionStatus(ActionState.INACTIVE, {"description": str(error)})
        except BackendUnavailable as error:
            status = ActionStatus(ActionState.ACTIVE, {**remote.status.details, "description": str(error)})
        except BridgeError as error:
            status = _failed(error)
        except Exception as error:  # whatever a service answers ends this action, and not the thread of all others
            logger.exception("action %s", remote.action_id)
            status = _failed(TaskFailed(f"{type(error).__name__}: {error}"))
        remote.status = status
        if status.status.ended:
            self._close(remote, status)

    def _moved(self, remote: Remote) -> ActionStatus:
        if remote.cancelled:
            if remote.noted:
                self.end(remote)
            return _failed(Cancelled("the action was cancelled"))
        if not remote.noted:
            self._note(remote, {"prepared_s": time.time(), **self.prepare(remote)})
        if not remote.remote_id:
            self._note(remote, {REMOTE: self.submit(remote)})
        return self.look(remote)

    def _note(self, remote: Remote, more: Json) -> None:
        noted = {**remote.noted, **more}
        self._store.note(remote.action_id, noted)
        remote.noted = noted

    def _close(self, remote: Remote, status: ActionStatus) -> None:
        with self._lock:
            self._open.pop(remote.action_id, None)
        self._store.end(remote.action_id, status.status, dict(status.details))
        if remote.released:
            self._store.forget(remote.action_id)


def _failed(error: BridgeError) -> ActionStatus:
    """How an action stands that an error has ended; one that was lost may be begun anew, as a new attempt."""
    lost = {"interrupted": True} if isinstance(error, WorkerLost) else {}
    return ActionStatus.failed(error, **lost)
