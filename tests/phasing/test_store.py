import sqlite3
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from phasing.card import ModelCard
from phasing.errors import ModelError
from phasing.store import ModelState, Registry

DEADLINE_S = 300.0


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def publish(registry: Registry, exported: Any, lineage: str = "one") -> ModelCard:
    return registry.publish(exported.onnx_path, exported.checkpoint_path, replace(exported.draft, lineage=lineage))


def test_gives_back_what_was_published(registry: Registry, exported: Any, tmp_path: Path) -> None:
    card = publish(registry, exported)
    assert card.version == 1
    again = Registry(tmp_path / "models")
    assert again.onnx_bytes(1) == exported.onnx_path.read_bytes()
    assert again.checkpoint_path(1).read_bytes() == exported.checkpoint_path.read_bytes()
    assert again.card(1).to_json() == card.to_json()
    assert again.entry(1).state is ModelState.CANDIDATE
    assert not list((tmp_path / "models").rglob("*.part"))


def test_one_model_of_a_lineage_is_active(registry: Registry, exported: Any) -> None:
    for lineage in ("one", "one", "other"):
        publish(registry, exported, lineage)
    assert registry.active("one") is None
    registry.set_active(1, "first")
    registry.set_active(3)
    registry.set_active(2, "better")
    active = registry.active("one")
    assert active is not None
    assert active.version == 2
    assert [entry.state for entry in registry.versions()] == ["retired", "active", "active"]
    assert [entry.card.version for entry in registry.versions("one")] == [1, 2]
    assert registry.entry(2).reason == "better"
    registry.set_active(1, "rolled back")
    assert [entry.state for entry in registry.versions("one")] == ["active", "retired"]


def test_a_guest_serves_a_lineage_until_another_does(registry: Registry, exported: Any, tmp_path: Path) -> None:
    for lineage in ("one", "other", "other"):
        publish(registry, exported, lineage)
    registry.set_active(1)
    registry.set_active(2, "by hand", lineage="one")
    again = Registry(tmp_path / "models")
    active = again.active("one")
    assert active is not None
    assert active.version == 2
    assert [entry.state for entry in again.versions()] == ["retired", "candidate", "candidate"]
    assert [entry.card.version for entry in again.choices("one")] == [1, 2]
    assert again.active("other") is None
    with pytest.raises(ModelError, match="version 2 is active"):
        again.refuse(2, "worse")
    again.set_active(1)
    back = registry.active("one")
    assert back is not None
    assert back.version == 1
    registry.refuse(2, "worse")
    assert [entry.card.version for entry in again.choices("one")] == [1]


def test_a_model_without_weights_may_serve_every_lineage(registry: Registry, exported: Any) -> None:
    assert registry.version_of(exported.draft.digest) is None
    card = registry.publish(exported.onnx_path, None, replace(exported.draft, lineage="other", val_loss=None))
    assert registry.version_of(card.digest) == card.version == 1
    assert registry.checkpoint_path(1) is None
    assert registry.onnx_bytes(1) == exported.onnx_path.read_bytes()
    assert [entry.card.version for entry in registry.choices("one")] == [1]
    assert registry.card(1).val_loss is None


def test_keeps_the_reason_of_a_refusal_and_never_refuses_the_active_one(registry: Registry, exported: Any) -> None:
    publish(registry, exported)
    registry.refuse(1, "worse")
    assert registry.entry(1).state is ModelState.REFUSED
    assert registry.entry(1).reason == "worse"
    registry.set_active(1)
    with pytest.raises(ModelError, match="version 1 is active"):
        registry.refuse(1, "worse")


@pytest.mark.parametrize("method", ["card", "onnx_bytes", "checkpoint_path", "set_active", "refuse"])
def test_names_a_version_that_is_not_there(registry: Registry, method: str) -> None:
    with pytest.raises(ModelError, match="no model version 7"):
        getattr(registry, method)(*((7, "worse") if method == "refuse" else (7,)))


def test_a_corrupted_object_is_noticed_at_every_read(registry: Registry, exported: Any, tmp_path: Path) -> None:
    card = publish(registry, exported)
    path = tmp_path / "models" / "objects" / card.digest[:2] / card.digest
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=f"version 1 is corrupted.*{card.digest[:12]}"):
        registry.onnx_bytes(1)
    path.unlink()
    with pytest.raises(ModelError, match=f"version 1.*{card.digest[:12]}"):
        registry.onnx_bytes(1)
    checkpoint = registry.checkpoint_path(1)
    checkpoint.write_bytes(b"")
    with pytest.raises(ModelError, match="version 1 is corrupted"):
        registry.checkpoint_path(1)


def test_gives_the_very_bytes_that_were_verified(
    registry: Registry, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(registry, exported)
    reading = Path.read_bytes

    def spoil_after_reading(path: Path) -> bytes:
        content = reading(path)
        path.write_bytes(b"replaced")
        return content

    whole = exported.onnx_path.read_bytes()
    monkeypatch.setattr(Path, "read_bytes", spoil_after_reading)
    assert registry.onnx_bytes(1) == whole


def test_refuses_a_file_that_is_not_its_cards(registry: Registry, exported: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"something else")
    with pytest.raises(ModelError, match="not the model of its card"):
        registry.publish(wrong, exported.checkpoint_path, exported.draft)
    with pytest.raises(ModelError, match=r"missing\.onnx cannot be read"):
        registry.publish(tmp_path / "missing.onnx", exported.checkpoint_path, exported.draft)
    assert registry.versions() == ()


def test_a_failed_publication_leaves_no_version(
    registry: Registry, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ModelCard, "to_json", lambda card: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        publish(registry, exported)
    monkeypatch.undo()
    assert registry.versions() == ()
    assert publish(registry, exported).version == 1


def test_a_broken_database_and_a_broken_row_are_named(registry: Registry, exported: Any, tmp_path: Path) -> None:
    publish(registry, exported)
    database = tmp_path / "models" / "registry.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE models SET card = '{'")
    connection.close()
    with pytest.raises(ModelError, match="version 1: its card was changed"):
        registry.card(1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "registry.sqlite").write_bytes(b"no database, but long enough to be looked at" * 100)
    with pytest.raises(ModelError, match=r"registry\.sqlite"):
        Registry(tmp_path / "other")


@pytest.mark.parametrize("damage", ["card = '{'", "card = '{}'", "card = '3'", "state = 'lost'"])
def test_a_broken_row_hides_no_other_model(
    registry: Registry, exported: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    for _ in range(3):
        publish(registry, exported)
    registry.set_active(3)
    database = sqlite3.connect(tmp_path / "models" / "registry.sqlite", isolation_level=None)
    with closing(database):
        database.execute(f"UPDATE models SET {damage} WHERE version = 2")
    for _ in range(2):
        assert [entry.card.version for entry in registry.versions("one")] == [1, 3]
    assert [record.getMessage()[:15] for record in caplog.records] == ["model version 2"]
    active = registry.active("one")
    assert active is not None
    assert active.version == 3
    with pytest.raises(ModelError, match=r"version 2: its (card was changed|row)"):
        registry.entry(2)


def test_a_lineage_whose_active_row_is_broken_has_no_active_model(
    registry: Registry, exported: Any, tmp_path: Path
) -> None:
    publish(registry, exported)
    registry.set_active(1)
    database = sqlite3.connect(tmp_path / "models" / "registry.sqlite", isolation_level=None)
    with closing(database):
        database.execute("UPDATE models SET card = '{'")
    assert registry.active("one") is None
    again = publish(registry, exported)
    registry.set_active(again.version)
    active = registry.active("one")
    assert active is not None
    assert active.version == again.version


def open_all(roots: list[Path], turn: Any) -> None:
    for root in roots:
        turn.wait(DEADLINE_S)
        Registry(root)


def test_several_processes_open_a_new_registry_at_once(tmp_path: Path) -> None:
    context = get_context("spawn")
    roots, turn = [tmp_path / str(number) for number in range(100)], context.Barrier(3)
    processes = [context.Process(target=open_all, args=(roots, turn)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(DEADLINE_S)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def publish_some(root: Path, onnx_path: Path, checkpoint_path: Path, draft: dict[str, Any]) -> list[int]:
    registry = Registry(root)
    card = ModelCard.from_json(draft)
    versions = []
    for _ in range(5):
        versions.append(registry.publish(onnx_path, checkpoint_path, card).version)
        registry.set_active(versions[-1])
    return versions


def test_several_processes_publish_at_once(exported: Any, tmp_path: Path) -> None:
    arguments = (tmp_path / "models", exported.onnx_path, exported.checkpoint_path, exported.draft.to_json())
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(publish_some, *arguments) for _ in range(3)]
        versions = sorted(version for run in runs for version in run.result())
    assert versions == list(range(1, 16))
    registry = Registry(tmp_path / "models")
    assert [entry.card.version for entry in registry.versions()] == versions
    states = [entry.state for entry in registry.versions()]
    assert states.count(ModelState.ACTIVE) == 1
    assert np.all([registry.onnx_bytes(version) == exported.onnx_path.read_bytes() for version in versions])


def family(registry: Registry, exported: Any, number: int) -> None:
    """Versions that are each the parent of the next; the last is active."""
    for version in range(1, number + 1):
        draft = replace(exported.draft, parent=version - 1 or None)
        registry.publish(exported.onnx_path, exported.checkpoint_path, draft)
    registry.set_active(number)


def test_deleting_takes_two_steps_and_never_the_way_back(registry: Registry, exported: Any, tmp_path: Path) -> None:
    family(registry, exported, 4)
    for version, reason in ((4, "4 is active"), (3, "3 is the way back from version 4"), (9, "no model version 9")):
        with pytest.raises(ModelError, match=reason):
            registry.mark_for_deletion(version)
    with pytest.raises(ModelError, match="version 1 is candidate: mark it"):
        registry.delete(1)
    registry.mark_for_deletion(1)
    assert registry.entry(1).state is ModelState.DELETING
    registry.delete(1)
    assert [entry.card.version for entry in registry.versions()] == [2, 3, 4]
    assert registry.onnx_bytes(4), "another version has the same files"
    registry.mark_for_deletion(2)
    registry.set_active(3)  # now 2 is the way back
    with pytest.raises(ModelError, match="2 is the way back"):
        registry.delete(2)
    assert registry.publish(exported.onnx_path, None, exported.draft).version == 5, "no number is used twice"


def test_files_go_with_the_last_version_that_has_them(registry: Registry, exported: Any, tmp_path: Path) -> None:
    for _ in range(2):
        publish(registry, exported)
    files = tmp_path / "models" / "objects"
    for version, left in ((1, 2), (2, 0)):
        registry.mark_for_deletion(version)
        registry.delete(version)
        assert len([path for path in files.rglob("*") if path.is_file()]) == left


def test_the_parent_of_a_guest_is_not_deleted(registry: Registry, exported: Any) -> None:
    family(registry, exported, 2)
    registry.set_active(2, lineage="other")
    publish(registry, exported, exported.draft.lineage)
    registry.set_active(3)
    for version in (1, 2):
        with pytest.raises(ModelError, match=str(version)):
            registry.mark_for_deletion(version)


def test_every_change_shows_in_the_standing(registry: Registry, exported: Any) -> None:
    seen = [registry.standing()]
    for change in (
        lambda: publish(registry, exported),
        lambda: publish(registry, exported),
        lambda: registry.set_active(1),
        lambda: registry.set_active(2),
        lambda: registry.set_active(2, lineage="other"),
        lambda: registry.mark_for_deletion(1),
        lambda: registry.delete(1),
    ):
        change()
        assert registry.standing() not in seen
        seen.append(registry.standing())
    assert registry.standing() == seen[-1]


def test_a_card_edited_by_hand_is_found(registry: Registry, exported: Any, tmp_path: Path) -> None:
    publish(registry, exported)
    publish(registry, exported)
    with closing(sqlite3.connect(tmp_path / "models" / "registry.sqlite")) as connection, connection:
        connection.execute("UPDATE models SET card = REPLACE(card, '\"seconds\"', '\"second\"') WHERE version = 1")
        connection.execute(
            "UPDATE models SET card = REPLACE(card, '\"num_samples\": ', '\"num_samples\": 9') WHERE version = 2"
        )
    for version in (1, 2):
        with pytest.raises(ModelError, match=f"version {version}: its card was changed"):
            registry.card(version)
    assert registry.versions() == ()


def test_a_registry_of_an_earlier_version_is_read(registry: Registry, exported: Any, tmp_path: Path) -> None:
    publish(registry, exported)
    with closing(sqlite3.connect(tmp_path / "models" / "registry.sqlite")) as connection, connection:
        connection.execute("ALTER TABLE models DROP COLUMN card_digest")
    again = Registry(tmp_path / "models")
    assert again.card(1).version == 1
    publish(again, exported)
    assert [entry.card.version for entry in again.versions()] == [1, 2]
