"""How consumers hold and swap their models, and how the edge has them do it, without their processes."""

import json
import os
import subprocess
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_models import SIDE_PX
from test_edge_pipeline import OPTIONS, SETTINGS, kept
from test_edge_warmer import until

from iocs import edge_consumer_models, edge_consumers
from iocs.config import EdgeSection
from iocs.edge_consumer_merged import RemoteEngine
from iocs.edge_consumer_models import Models
from iocs.edge_consumer_orders import Answer, Orders
from iocs.edge_consumer_processes import Child
from iocs.edge_consumers import Consumers
from iocs.edge_messages import Note, StreamConfig
from iocs.edge_processor import EdgeProcessor
from iocs.edge_trial import Candidate, build
from iocs.edge_warmer import PARALLEL
from phasing.errors import ModelError
from pvdb import Severity


def candidate(folder: Path, version: int) -> Candidate:
    return Candidate(kept(folder, version, version / 10), OPTIONS, ())


def test_no_failure_whatever_takes_the_next_model_its_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = candidate(tmp_path, 1), candidate(tmp_path, 2)
    models = Models()

    def fail_on_first(wanted: Candidate) -> Any:
        if wanted.kept == first.kept:
            raise KeyError("no such layer")
        return build(wanted)

    monkeypatch.setattr(edge_consumer_models, "build", fail_on_first)
    orders = Orders(1, SETTINGS, (first, second), "")
    models.follow(orders)
    models.wait()
    answer = models.answer(orders, "", None)
    assert answer.refused == {str(first.kept.announcement): "KeyError: 'no such layer'"}
    assert answer.built == (str(second.kept.announcement),)


def test_a_model_that_gave_way_serves_again_while_it_is_listed(tmp_path: Path) -> None:
    wanted = [candidate(tmp_path, version) for version in (1, 2)]
    former, new = (str(each.kept.announcement) for each in wanted)
    processor = EdgeProcessor({"orders": json.loads(Orders(1, SETTINGS).to_json()), "queue_frames": 10})

    def serves(serial: int, *listed: Candidate, live: str) -> Any:
        processor.configure(json.loads(Orders(serial, SETTINGS, listed, live).to_json()))
        processor._models.wait()
        processor._follow()
        assert json.loads(processor.getStats()["answer"])["live"] == live
        return processor._batches.model

    first = serves(2, wanted[0], live=former)
    second = serves(3, *wanted, live=new)
    closed = [weakref.ref(model.engine.network._session) for model in (first, second)]
    assert second.card.version == 2
    assert serves(4, wanted[0], live=former) is first
    until(lambda: closed[1]() is None, "the new one is closed, which nobody wants")
    assert first.engine.infer(np.ones((1, 1, SIDE_PX, SIDE_PX), np.float32)).max() == pytest.approx(0.1)
    assert serves(5, live="") is None
    until(lambda: closed[0]() is None, "the former one is closed")


class Tool:
    """A process of the set-up that is none, and its channels: it follows the orders it is given, or some of them."""

    orders: Orders | None = None
    unwilling = ""

    def __init__(self, *_: Any) -> None:
        self.pid = 1

    def died(self) -> None:
        return None

    def start_again_if_due(self) -> bool:
        return False

    def let_go(self) -> None:
        pass

    end = let_go

    def order(self, command: str, said: str = "") -> None:
        if command == "configure":
            orders = Orders.from_dict(json.loads(said))
            if orders.live != Tool.unwilling or not orders.live:
                Tool.orders = orders

    def said(self, name: str) -> str:
        if name == "heard":
            return json.dumps({"1": 1})
        orders = Tool.orders
        if orders is None:
            return ""
        names = tuple(str(each.kept.announcement) for each in orders.models)
        return Answer(orders.serial, names, live=orders.live, begun=orders.begun, engine="made up").to_json()


@pytest.fixture
def consumers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Consumers, list[Note]]]:
    Tool.orders, Tool.unwilling = None, ""
    for part in ("Child", "Link"):
        monkeypatch.setattr(edge_consumers, part, Tool)
    edge = EdgeSection(engine="onnxruntime", consumers=1, model_timeout_s=1.0)
    folder = tmp_path / "edge"
    config = StreamConfig(edge, "source", "phase", "stitched", "input", "", "", folder, folder, folder)
    notes: list[Note] = []
    made = Consumers(config, SETTINGS, notes.append)
    yield made, notes
    made.close()


def test_the_consumers_are_looked_after_whatever_fails(
    consumers: tuple[Consumers, list[Note]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, notes = consumers
    monkeypatch.setattr(edge_consumers, "SETTLED_S", 0.01)
    with monkeypatch.context() as patch:
        patch.setattr(Tool, "died", lambda _: 1 // 0)
        made.set(SETTINGS)
        until(lambda: bool(notes), "told of")
    assert notes[0].severity is Severity.MAJOR
    assert "ZeroDivisionError" in notes[0].text
    assert made.adopt(candidate(tmp_path, 1), lambda _: None).engine.name == "1 x made up"


@pytest.mark.parametrize("former", [1, None])
def test_a_model_that_one_consumer_does_not_take_up_leaves_the_former_in_all(
    consumers: tuple[Consumers, list[Note]], tmp_path: Path, former: int | None
) -> None:
    made, _ = consumers
    served = () if former is None else (candidate(tmp_path, former),)
    for each in served:
        made.adopt(each, lambda _: None)
    live = "".join(str(each.kept.announcement) for each in served)
    new = candidate(tmp_path, 2)
    Tool.unwilling = str(new.kept.announcement)
    with pytest.raises(ModelError, match="consumer 1 has not taken it up within 1 s"):
        made.adopt(new, lambda _: None)
    serial = made._orders.serial
    until(lambda: Tool.orders is not None and Tool.orders.serial == serial, "the last orders are followed")
    assert Tool.orders is not None
    assert Tool.orders.live == live
    assert [each.kept for each in Tool.orders.models] == [each.kept for each in served]


def test_several_gpus_are_shared_out_and_one_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_consumers, "visible_gpus", lambda: ("0", "GPU-b", "2"))
    given = [edge_consumers._gpu_of(number) for number in range(1, 6)]
    assert given == [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("0", "GPU-b", "2", "0", "GPU-b")]
    for few in ((), ("1",)):
        monkeypatch.setattr(edge_consumers, "visible_gpus", lambda few=few: few)
        assert edge_consumers._gpu_of(1) == {}


def test_a_child_sees_the_gpu_that_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    Child("a consumer", list, {"CUDA_VISIBLE_DEVICES": "1"})
    Child("the collector", list)
    assert [env["CUDA_VISIBLE_DEVICES"] for env in started] == ["1", "0,1"]
    assert started[0].keys() == os.environ.keys()


def test_a_consumer_has_a_few_batches_at_the_same_time(
    consumers: tuple[Consumers, list[Note]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_consumers, "cores_available", lambda: 64)
    made, _ = consumers
    made.adopt(candidate(tmp_path, 1), lambda _: None)
    assert Tool.orders is not None
    options = Tool.orders.models[0].options
    assert (options.threads, options.parallel) == (64, PARALLEL)


def test_what_a_consumer_says_of_its_engine_comes_to_the_edge(tmp_path: Path) -> None:
    models, wanted = Models(), candidate(tmp_path, 1)
    name = str(wanted.kept.announcement)
    orders = Orders(1, SETTINGS, (wanted,), name)
    models.follow(orders)
    models.wait()
    model = models.take_live(name)
    assert model is not None
    said = Answer.from_json(models.answer(orders, name, model).to_json())
    assert (said.engine, said.difference_rad, said.remark) == ("onnxruntime CPU float32", None, "")
    slow = Answer(engine="torch CPU float32", remark="bfloat16 differs by 0.03 rad")
    fast = Answer(engine="torch CPU bfloat16", difference_rad=0.01)
    engine = RemoteEngine.of([slow, fast, slow])
    assert (engine.name, engine.difference_rad, engine.remark) == ("3 x torch CPU float32", 0.01, slow.remark)
    model.close()
