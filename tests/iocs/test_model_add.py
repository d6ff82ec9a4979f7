"""`phaseline model add` on the command line, and a workflow IOC that runs meanwhile."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Process, start_ioc, start_script, write_config
from made_models import constant_onnx

from iocs import cli
from iocs.client import Client, ClientError
from iocs.edge_models import Announcement, fetch
from phasing.card import ModelCard
from phasing.store import Registry
from pvdb import edge
from pvdb import workflow as pvs

HERE = Path(__file__).parent
PATIENCE_S = 900.0
PREFIX = f"A{os.getpid()}:"
WATCHED = (pvs.MODEL_TABLE, pvs.ACTIVE_MODEL, pvs.ANNOUNCED, pvs.CANDIDATE, pvs.MODEL_MESSAGE, pvs.LINEAGE)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_config(tmp_path, PREFIX, "[geometry]\nenergy_ev = 9000.0\n")


def registry(config: Path) -> Registry:
    return Registry(config.parent / "data" / "registry")


def add(config: Path, *arguments: object) -> int:
    """The command, in this process."""
    return cli.main(["model", "add", "--config", str(config), *map(str, arguments)])


def onnx_file(folder: Path, phase_rad: float = 0.1, side_px: int = 64) -> Path:
    path = folder / f"{phase_rad}-{side_px}.onnx"
    path.write_bytes(constant_onnx(phase_rad, side_px))
    return path


def test_the_card_is_what_configuration_and_options_say(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probe = config.parent / "probe.npy"
    np.save(probe, np.full((128, 128), 4.0))
    shape_and_set_up = ["--raw-shape", 516, 516, "--crop", 2, "--bin", 4, "--distance-m", 2.0, "--pixel-size-m", 55e-6]
    network = ["--object-pixel-size-m", 10e-9, "--counts-scale", 0.25, "--probe", probe]
    assert add(config, onnx_file(config.parent, side_px=128), *shape_and_set_up, *network) == 0
    card = registry(config).card(1)
    geometry = card.geometry
    assert (geometry.detector_shape_px, geometry.crop_px, geometry.bin_px) == ((516, 516), 512, 4)
    assert geometry.crop_start_px == (2, 2)
    assert (geometry.energy_ev, geometry.distance_m, geometry.pixel_size_m) == (9000.0, 2.0, 55e-6)
    assert (card.pixel_size_m, card.counts_scale) == (10e-9, 0.25)
    assert np.all(card.probe_intensity == 1)
    assert card.val_loss is None
    said = capsys.readouterr().out
    assert f"version 1, sha256 {card.digest}" in said
    assert "516 x 516, cropped to 512, binned by 4: 128 x 128" in said
    assert f"caput {PREFIX}Model:Select 1" in said
    assert "not this experiment's" in said


def test_options_that_are_not_given_are_the_configurations(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert add(config, onnx_file(config.parent)) == 0
    assert add(config, onnx_file(config.parent), "--lineage", "borrowed") == 0
    assert registry(config).card(1).geometry.energy_ev == 9000.0
    assert registry(config).card(2).lineage == "borrowed"
    assert registry(config).checkpoint_path(2) is None
    first, second = capsys.readouterr().out.split("version 2")
    assert "not this experiment's" not in first
    assert "not this experiment's" in second


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--raw-shape", 516, 516, "--crop", 2, "--bin", 4], "516 - 2 x 2 = 512, / 4 = 128, but the network takes 64"),
        (["--crop", 1, "--bin", 4], "bin_px must be a divisor of crop_px 62, not 4"),
        (["--crop", 40], "crop_px must be from 2 to the sides of (64, 64), not -16"),
        (["--bin", 0], "bin_px must be at least 1, not 0"),
        (["--energy-ev", -1], "energy_ev must be a finite number above 0"),
        (["--counts-scale", 0], "counts_scale is wrong"),
        (["--object-pixel-size-m", 0], "pixel_size_m is wrong"),
        (["--probe", "missing.npy"], "missing.npy is no .npy file"),
    ],
)
def test_what_does_not_fit_is_one_line_and_no_version(
    config: Path, capsys: pytest.CaptureFixture[str], options: list[Any], reason: str
) -> None:
    assert add(config, onnx_file(config.parent), *options) == 1
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert registry(config).versions() == ()


def test_files_that_are_no_network_are_refused_by_name(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = config.parent / "text.onnx"
    text.write_text("hello")
    for path in (text, config.parent, config.parent / "missing.onnx"):
        assert add(config, path) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"phaseline: {path}")
        assert said.count("\n") == 1


def test_the_help_explains_every_option() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iocs", "model", "add", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--raw-shape", "--crop", "--bin", "--counts-scale", "--energy-ev", "--probe", "--lineage"):
        assert option in done.stdout
    assert "516 - 2 x 2 = 512, / 4 = 128" in done.stdout


class Workplace:
    """A workflow IOC, an edge that shows what it is told to, and a client."""

    def __init__(self, config: Path) -> None:
        self.config = config
        with ExitStack() as parts:
            self.ioc: Process = start_ioc("workflow", config)
            parts.callback(self._stop_ioc)
            self.stub = start_script(HERE / "edge_stub.py", config.parent / "stub.log", PREFIX)
            parts.callback(self.stub.stop)
            self.client = parts.enter_context(closing(Client(PREFIX)))
            self.client.watch(*WATCHED)
            self._parts = parts.pop_all()

    def close(self) -> None:
        """Stop every part, also when one does not stop well."""
        self._parts.close()

    def _stop_ioc(self) -> None:
        assert self.ioc.stop() == 0

    def until(self, condition: object, what: str) -> None:
        assert callable(condition)
        self.client.wait(condition, what, PATIENCE_S)

    def table(self) -> dict[str, Any]:
        return dict(self.client.value(pvs.MODEL_TABLE) or dict.fromkeys(pvs.MODEL_TABLE.columns, ()))

    def announced(self) -> int:
        text = self.client.value(pvs.ANNOUNCED)
        return Announcement.parse(text).version if text else 0

    def select(self, version: int) -> None:
        """Put Model:Select; the edge runs the version as soon as it is announced, and the put completes."""
        selecting = self.client.put_aside(pvs.SELECT, version)
        self.until(lambda: self.announced() == version, f"version {version} is announced")
        self.stub.tell(json.dumps({"running": version}))
        selecting.wait()
        self.until(lambda: self.client.value(pvs.ACTIVE_MODEL) == version, "it is live")
        live = f"version {version} is live: selected"
        self.until(lambda: str(self.client.value(pvs.MODEL_MESSAGE)).startswith(live), "it is told")

    def states(self) -> dict[int, str]:
        return dict(zip(self.table()["version"], self.table()["state"], strict=True))


@pytest.fixture
def workplace(config: Path) -> Iterator[Workplace]:
    with closing(Workplace(config)) as made:
        yield made


def test_a_running_workflow_ioc_shows_what_is_added_and_puts_it_live(workplace: Workplace) -> None:
    """Also a model of another lineage, which is live again after a restart, and gives way when the edge refuses."""
    config, client = workplace.config, workplace.client
    assert add(config, onnx_file(config.parent)) == 0
    workplace.until(lambda: workplace.states() == {1: "candidate"}, "the table has version 1")
    assert np.isnan(workplace.table()["valLoss"][0])
    assert client.value(pvs.CANDIDATE) == 0  # what nobody has judged is no candidate for Accept
    assert registry(config).card(1).lineage == client.value(pvs.LINEAGE)
    workplace.select(1)
    workplace.until(lambda: workplace.states() == {1: "active"}, "version 1 is active")

    assert add(config, onnx_file(config.parent, 0.2, 32), "--bin", 2) == 0
    assert registry(config).card(2).lineage != client.value(pvs.LINEAGE)
    workplace.select(2)
    assert registry(config).card(2).lineage in str(client.value(pvs.MODEL_MESSAGE))
    workplace.until(lambda: workplace.states() == {1: "retired", 2: "active"}, "version 2 is active")
    announced = Announcement.parse(client.value(pvs.ANNOUNCED))
    card, content = fetch(client.name(pvs.FETCH), announced, PATIENCE_S)
    assert content == constant_onnx(0.2, 32)
    assert ModelCard.from_json(json.loads(card)).geometry.frame_px == 32
    with pytest.raises(ClientError, match="no parent"):
        client.put(pvs.ROLLBACK, 1)

    assert workplace.ioc.stop() == 0
    workplace.until(lambda: client.value(pvs.ANNOUNCED) is None, "the IOC is gone")
    workplace.ioc = start_ioc("workflow", config)
    workplace.until(lambda: workplace.announced() == 2, "version 2 is announced again")
    workplace.until(lambda: client.value(pvs.ACTIVE_MODEL) == 2, "the edge is seen again")

    assert add(config, onnx_file(config.parent, 0.3)) == 0
    selecting = client.put_aside(pvs.SELECT, 3)
    workplace.until(lambda: workplace.announced() == 3, "version 3 is announced")
    serial = Announcement.parse(client.value(pvs.ANNOUNCED)).serial
    workplace.stub.tell(json.dumps({"refused": f"3 {serial} it tastes bad"}))
    with pytest.raises(ClientError, match="the edge refused version 3: it tastes bad"):
        selecting.wait()
    workplace.until(lambda: workplace.announced() == 2, "version 2 is announced again")
    states = {1: "retired", 2: "active", 3: "refused"}
    workplace.until(lambda: workplace.states() == states, "the table says so")
    assert client.get(edge.MODEL) == 2
