"""One action URL, several places where its actions run: told apart by the endpoint that the body names."""

from collections.abc import Callable, Mapping
from typing import Protocol

from hpc_bridge.compute_body import check_endpoint
from hpc_bridge.errors import TaskFailed
from hpc_bridge.ports import ActionProvider, ActionStatus, Json, Notifier

_SEPARATOR = "/"


class Stoppable(ActionProvider, Protocol):
    """A provider that holds processes, threads or files until it is stopped."""

    def stop(self) -> None:
        """Let everything go; what is open goes on, or is begun again, at the next start."""


class Endpoints:
    """Hands each action to the provider of its ``endpoint_id``; the action's id remembers which that was."""

    def __init__(self, providers: Mapping[str, Stoppable]) -> None:
        """``providers`` by endpoint; one that serves several endpoints may come several times."""
        self._providers = dict(providers)

    def run(self, request_id: str, body: Json) -> str:
        """Begin the action at its endpoint. Raises TaskFailed for one that does not exist."""
        check_endpoint(body, self._providers)
        endpoint = body["endpoint_id"]
        return f"{endpoint}{_SEPARATOR}{self._providers[endpoint].run(request_id, body)}"

    def status(self, action_id: str) -> ActionStatus:
        """Tell how the action stands."""
        provider, own_id = self._of(action_id)
        return provider.status(own_id)

    def cancel(self, action_id: str) -> None:
        """End the action now."""
        provider, own_id = self._of(action_id)
        provider.cancel(own_id)

    def release(self, action_id: str) -> None:
        """Forget an action that has ended."""
        provider, own_id = self._of(action_id)
        provider.release(own_id)

    def notify(self, callback: Callable[[], None]) -> None:
        """Call back whenever an action ends, at those endpoints that can tell."""
        for provider in self._unique():
            if isinstance(provider, Notifier):
                provider.notify(callback)

    def stop(self) -> None:
        """Stop every provider."""
        for provider in self._unique():
            provider.stop()

    def _of(self, action_id: str) -> tuple[Stoppable, str]:
        endpoint, _, own_id = action_id.rpartition(_SEPARATOR)
        if endpoint not in self._providers:
            raise TaskFailed(f"the endpoint of action {action_id} is not configured any more")
        return self._providers[endpoint], own_id

    def _unique(self) -> list[Stoppable]:
        return list({id(provider): provider for provider in self._providers.values()}.values())
