"""How consumers hold and swap their models, and how the edge has them do it, without their processes."""

from pathlib import Path

from test_edge_pipeline import OPTIONS, SETTINGS, kept

from iocs.edge_consumer_merged import RemoteEngine
from iocs.edge_consumer_models import Models
from iocs.edge_consumer_orders import Answer, Orders
from iocs.edge_trial import Candidate


def candidate(folder: Path, version: int) -> Candidate:
    return Candidate(kept(folder, version, version / 10), OPTIONS, ())


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
