"""`phaseline model` on the command line, and the same by PVs, beside a workflow IOC that runs."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from harness import running, write_config
from made_models import card, constant_onnx

from iocs import cli
from iocs.client import Client, ClientError
from iocs.config import load
from iocs.edge_models import Announcement
from iocs.model_add import experiment_lineage
from iocs.workflow_layout import Layout
from phasing.network import PtychoNN
from phasing.store import ModelState, Registry
from pvdb import Pv
from pvdb import workflow as pvs

PATIENCE_S = 900.0
PREFIX = f"C{os.getpid()}:"
WATCHED = (pvs.MODEL_TABLE, pvs.ANNOUNCED, pvs.CARD, pvs.MODEL_MESSAGE)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration whose registry has three models of its lineage; the second is active."""
    path = write_config(tmp_path, PREFIX)
    made = registry(path)
    settings = load(path)
    layout = Layout.below(settings.root, settings.scans)
    lineage = experiment_lineage(settings, layout, settings.geometry.geometry())
    for version in (1, 2, 3):
        content = constant_onnx(version / 10)
        (tmp_path / "model.onnx").write_bytes(content)
        draft = replace(card(version, content, parent=version - 1 or None), lineage=lineage)
        made.publish(tmp_path / "model.onnx", None, draft)
    made.set_active(1)
    made.set_active(2)
    return path


def registry(config: Path) -> Registry:
    return Registry(config.parent / "data" / "registry")


def states(config: Path) -> dict[int, str]:
    return {entry.card.version: str(entry.state) for entry in registry(config).versions()}


def model(config: Path, *arguments: object) -> int:
    """The command, in this process."""
    action, *rest = map(str, arguments)
    return cli.main(["model", action, "--config", str(config), *rest])


def test_lists_shows_and_puts_models_live(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert model(config, "list") == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["version", "parent", "state"]
    assert [line.split()[:3] for line in lines] == [
        ["3", "2", "candidate"],
        ["2", "1", "active"],
        ["1", "-", "retired"],
    ]
    assert model(config, "show", 2) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["version"], found["state"], found["has_weights"]) == (2, "active", False)
    assert "probe_intensity" not in found
    assert model(config, "accept") == 0
    assert states(config)[3] == ModelState.ACTIVE
    assert model(config, "rollback") == 0
    assert model(config, "rollback") == 0
    assert states(config) == {1: "active", 2: "retired", 3: "retired"}
    assert model(config, "select", 3) == 0
    assert "version 3 is active" in capsys.readouterr().out
    assert model(config, "select", 3, "--lineage", "another") == 0
    assert model(config, "list", "--all") == 0
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("show", 9), "no model version 9"),
        (("select", 9), "no model version 9"),
        (("delete", 2), "2 is active"),
        (("delete", 1), "1 is the way back"),
        (("delete", 3, "--for-good"), "mark it for deletion first"),
        (("accept", "--lineage", "none"), "no candidate of lineage none"),
        (("rollback", "--lineage", "none"), "no parent"),
        (("import", "missing.zip"), "missing.zip is no exported model"),
    ],
)
def test_says_what_cannot_be(
    config: Path, arguments: tuple[object, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = states(config)
    assert model(config, *arguments) == cli.FAILED
    assert reason in capsys.readouterr().err
    assert states(config) == before


def test_a_damaged_model_is_not_put_live(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = registry(config).card(3).digest
    path = config.parent / "data" / "registry" / "objects" / digest[:2] / digest
    path.write_bytes(path.read_bytes() + b"by hand")
    assert model(config, "select", 3) == cli.FAILED
    assert "version 3 is corrupted" in capsys.readouterr().err
    assert states(config)[2] == ModelState.ACTIVE


def test_carries_models_and_deletes_them_in_two_steps(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "model.zip"
    assert model(config, "export", 3, path) == 0
    assert model(config, "delete", 3) == 0
    assert states(config)[3] == ModelState.DELETING
    assert model(config, "delete", 3, "--for-good") == 0
    assert 3 not in states(config)
    assert model(config, "import", path) == 0
    assert registry(config).card(4).parent == 2
    assert "version 4" in capsys.readouterr().out


def test_weights_become_a_model_that_training_can_start_from(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "weights.pth"
    torch.save(PtychoNN().state_dict(), path)
    assert model(config, "add", path) == 0
    added = registry(config).card(4)
    assert added.lineage == registry(config).card(1).lineage
    assert registry(config).checkpoint_path(4) is not None
    torch.save({"fc.weight": torch.zeros(3)}, path)
    assert model(config, "add", path) == cli.FAILED
    assert "weights are not PtychoNN's" in capsys.readouterr().err


class Beside:
    """A workflow IOC, and a client of it."""

    def __init__(self, config: Path, stack: ExitStack) -> None:
        stack.enter_context(running("workflow", config))
        self.client = Client(PREFIX, {})
        stack.callback(self.client.close)
        self.client.watch(*WATCHED)

    def until(self, condition: Any, what: str) -> None:
        self.client.wait(condition, what, PATIENCE_S)

    def announces(self, version: int) -> None:
        def announced() -> bool:
            text = self.client.value(pvs.ANNOUNCED)
            return bool(text) and Announcement.parse(text).version == version

        self.until(announced, f"version {version} is announced")

    def shows(self, version: int, state: str | None) -> None:
        def shown() -> bool:
            table = self.client.value(pvs.MODEL_TABLE)
            return bool(table) and dict(zip(table["version"], table["state"], strict=True)).get(version) == state

        self.until(shown, f"version {version} is {state}")

    def tells(self, pv: Pv, text: str) -> None:
        self.until(lambda: text in str(self.client.value(pv)), f"{pv.name} says {text}")


@pytest.fixture
def beside(config: Path) -> Iterator[Beside]:
    with ExitStack() as stack:
        yield Beside(config, stack)


def test_a_running_ioc_announces_what_the_command_line_puts_live(config: Path, beside: Beside) -> None:
    beside.announces(2)
    assert model(config, "accept") == 0
    beside.announces(3)
    beside.tells(pvs.MODEL_MESSAGE, "version 3 was made active in the registry")
    beside.shows(3, "active")
    assert model(config, "rollback") == 0
    beside.announces(2)
    assert model(config, "delete", 3) == 0
    beside.shows(3, "to be deleted")


def test_the_registry_by_pvs(config: Path, beside: Beside) -> None:
    client, exchange = beside.client, config.parent / "data" / "exchange"
    client.put(pvs.MODEL_VERSION, 3)
    beside.tells(pvs.CARD, '"version": 3')
    with pytest.raises(ClientError, match="no model version 77"):
        client.put(pvs.MODEL_VERSION, 77)
    for name in ("../out.zip", "/tmp/out.zip", ".hidden"):
        with pytest.raises(ClientError, match="is no name of a file in"):
            client.put(pvs.MODEL_FILE, name)
    with pytest.raises(ClientError, match="names no file"):
        client.put(pvs.EXPORT, 1)
    client.put(pvs.MODEL_FILE, "three.zip")
    client.put(pvs.EXPORT, 1)
    assert (exchange / "three.zip").is_file()
    client.put(pvs.DELETE, 1)
    beside.shows(3, "to be deleted")
    client.put(pvs.DELETE, 1)
    beside.shows(3, None)
    client.put(pvs.ADD, 1)
    beside.shows(4, "candidate")
    torch.save(PtychoNN().state_dict(), exchange / "weights.pth")
    client.put(pvs.MODEL_FILE, "weights.pth")
    client.put(pvs.ADD, 1)
    beside.shows(5, "candidate")
    client.put(pvs.MODEL_VERSION, 2)
    with pytest.raises(ClientError, match="2 is active"):
        client.put(pvs.DELETE, 1)
    client.put(pvs.MODEL_FILE, "missing.onnx")
    with pytest.raises(ClientError, match=r"missing\.onnx cannot be read"):
        client.put(pvs.ADD, 1)
