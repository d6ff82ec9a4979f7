"""A client that remembers what its PVs showed: what lasts a second is seen also by a test that sleeps longer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from iocs.client import Client
from pvdb import Pv


class Following(Client):
    """A client with the values that each watched PV had, in order."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self._shown: dict[Pv, list[Any]] = {}

    @contextmanager
    def passing(self, pv: Pv, *values: Any, timeout_s: float) -> Iterator[None]:
        """Wait in the end until a PV has shown values one after another since the beginning, others between them.

        In place of a value there may be a function that says whether it is one.
        """
        with self._changed:
            self._shown[pv] = []
        yield
        self.wait(lambda: _in_order(self._shown[pv], values), f"{pv.name} shows {values}", timeout_s)

    def shown(self, pv: Pv) -> list[Any]:
        """What a PV has shown since `passing` began."""
        with self._changed:
            return list(self._shown[pv])

    def _update(self, pv: Pv, update: Any) -> None:
        with self._changed:  # which may be taken again by whoever has it
            super()._update(pv, update)
            self._shown.setdefault(pv, []).append(self._values[pv])


def _in_order(shown: list[Any], values: tuple[Any, ...]) -> bool:
    left = iter(shown)
    return all(any(value(one) if callable(value) else value == one for one in left) for value in values)
