"""Waiting for actions, whichever provider has them."""

import threading

import pytest

from hpc_bridge.ports import ActionState

PATIENCE_S = 300.0


class Waiter:
    """Waits for what a provider says of its actions."""

    def __init__(self, provider, patience_s=PATIENCE_S) -> None:
        self.provider, self._patience_s = provider, patience_s
        self._changed = threading.Event()
        provider.notify(self._changed.set)

    def end(self, action_id):
        """The action's status once it has ended."""
        return self.until(action_id, lambda status: status.status.ended)

    def until(self, action_id, condition):
        """The first status that fulfils the condition; the provider tells of ends, other changes are looked for."""
        for _ in range(int(self._patience_s / 0.02)):
            status = self.provider.status(action_id)
            if condition(status):
                return status
            self._changed.wait(0.02)
            self._changed.clear()
        pytest.fail(f"still {status}")

    def succeeded(self, action_id):
        status = self.end(action_id)
        assert status.status is ActionState.SUCCEEDED, status.description
        return status

    def failed(self, action_id, text):
        status = self.end(action_id)
        assert status.status is ActionState.FAILED
        assert text in status.description
        return status
