"""What an engine holds is free when it is closed."""

import weakref
from typing import Any

import pytest

from phasing.engines import EngineOptions, torch_engine
from phasing.engines.served import Turns
from phasing.engines.torch_engine import CudaNetwork


class Thing:
    """Something that can be seen to vanish."""


class LaneOf:
    """Stands for the graphs on a GPU, which know where the weights lie and do not keep them."""

    def __init__(self, module: Any, precision: str, shape: tuple[int, ...]) -> None:
        self.shape = shape


def test_what_takes_turns_is_held_by_nobody_once_all_is_taken() -> None:
    thing = Thing()
    turns, seen = Turns([thing]), weakref.ref(thing)
    with turns.one() as lent:
        assert lent is thing
    del thing, lent
    assert seen() is not None
    turns.take_all()
    assert seen() is None
    assert turns.take_all() == []


def test_weights_on_a_gpu_live_as_long_as_the_graphs_and_no_longer(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    alive: list[weakref.ref[Any]] = []

    def keep(thing: Any) -> Any:
        alive.append(weakref.ref(thing))
        return thing

    found: list[list[bool]] = []
    monkeypatch.setattr(torch_engine, "_module", lambda *_: keep(Thing()))
    monkeypatch.setattr(torch_engine, "_Lane", lambda *given: keep(LaneOf(*given)))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: found.append([ref() is not None for ref in alive]))
    network = CudaNetwork(b"", exported.draft, EngineOptions(precision="float32", parallel=2))
    assert [ref() is not None for ref in alive] == [True, True, True]
    network.close()
    assert found == [[False, False, False]]
