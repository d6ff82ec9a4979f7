"""The configuration is checked as a whole, and every complaint names its key."""

import numpy as np
import pytest

from iocs.config import Config, ConfigError, load, parse

WRONG = [
    ({"prefx": "A:"}, ["prefx: there is no such key"]),
    ({"edge": {"engin": "auto"}}, ["edge.engin: there is no such key"]),
    ({"prefix": "P TY:"}, ["prefix: must be letters"]),
    ({"prefix": "P.TY:"}, ["prefix: must be letters"]),
    ({"prefix": ""}, ["prefix: "]),
    ({"prefix": 3}, ["prefix: "]),
    ({"network": {"ca_port": "many"}}, ["network.ca_port: ", "'many'"]),
    ({"network": {"ca_port": 65_535}}, ["network.ca_port: "]),
    ({"network": {"pva_port": 80}}, ["network.pva_port: ", "1024"]),
    ({"network": 5}, ["network: "]),
    ({"bridge": {"parsl": {"train": {"workers_per_node": 3, "gpus_per_node": 4}}}}, ["bridge.parsl.train", "evenly"]),
    ({"edge": {"engine": "abacus"}}, ["edge.engine: ", "'onnxruntime'", "'abacus'"]),
    ({"train": {"num_epochs": 0}}, ["train.num_epochs: "]),
    ({"train": {"learning_rate_min": 1e-3}}, ["train: learning_rate_min is not below learning_rate_max"]),
    ({"detector": {"camera": "cam1"}}, ["detector.camera: ", "end in a colon"]),
    ({"detector": {"file": "Det:Pva1:"}}, ["detector: camera, file and pva need three different suffixes"]),
    ({"geometry": {"energy_ev": -1}}, ["geometry.energy_ev: "]),
    ({"geometry": {"crop_px": 65}}, ["geometry.crop_px must be from 2"]),
    ({"geometry": {"crop_px": 63, "bin_px": 2}}, ["geometry.bin_px must be a divisor"]),
    ({"geometry": {"crop_center_px": [0, 0]}}, ["geometry.crop_center_px must be"]),
    ({"edge": {"positions": {"source": "stream", "stream": "ca://Box"}}}, ["edge.positions", "pvAccess only", "ca://"]),
    ({"edge": {"positions": {"source": "stream"}}}, ["edge.positions", "needs the key stream, or x and y as PVs"]),
    ({"edge": {"positions": {"source": "file"}}}, ["edge.positions", "needs the key file"]),
    ({"geometry": {"mask_file": "/nowhere/mask.npy"}}, ["geometry.mask_file: /nowhere/mask.npy"]),
]


@pytest.mark.parametrize(("values", "words"), WRONG)
def test_a_wrong_key_is_named(values, words):
    with pytest.raises(ConfigError) as caught:
        parse(values, where="beamline.toml")
    text = str(caught.value)
    assert text.startswith("beamline.toml: ") and "\n" not in text
    assert all(word in text for word in words), text


def test_every_wrong_key_is_named_at_once():
    values = {"prefx": 1, "root": 2, "train": {"seed": "x"}, "edge": {"threads": 0, "nope": 1}}
    with pytest.raises(ConfigError) as caught:
        parse(values, where="c.toml")
    lines = str(caught.value).splitlines()
    assert sorted(line.split(": ")[1] for line in lines) == [
        "edge.nope", "edge.threads", "prefx", "root", "train.seed"
    ]  # fmt: skip


def test_a_whole_file_is_read(tmp_path):
    np.save(tmp_path / "mask.npy", np.eye(32, dtype=bool))
    path = tmp_path / "c.toml"
    path.write_text(f"""
prefix = "26idc:"
root = "{tmp_path}"
[detector]
camera = "QMPX3:cam1:"
[geometry]
detector_shape_px = [32, 32]
crop_px = 16
crop_center_px = [15, 17]
mask_file = "{tmp_path}/mask.npy"
""")
    config = load(path)
    geometry = config.geometry.geometry()
    assert config.prefix == "26idc:" and config.detector.camera == "QMPX3:cam1:"
    assert geometry.crop_center_px == (15, 17) and geometry.mask.sum() == 32
    assert config.scans == tmp_path / "scans" and config.stream == "26idc:Det:Pva1:Image"


def test_a_mask_that_does_not_fit_is_refused(tmp_path):
    np.save(tmp_path / "mask.npy", np.zeros((3, 3), bool))
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(ConfigError, match=r"geometry\.mask must be of shape"):
        parse({"geometry": {"mask_file": str(tmp_path / "mask.npy")}})
    with pytest.raises(ConfigError, match=r"geometry\.flat_file: .*text\.npy is no .npy file"):
        parse({"geometry": {"flat_file": str(tmp_path / "text.npy")}})


def test_without_a_file_everything_is_loopback():
    config = load(None)
    assert config == Config() and config.prefix == "PTY:"
    environment = config.network.environment()
    assert environment["EPICS_CA_ADDR_LIST"] == "127.255.255.255"
    assert environment["EPICS_PVA_ADDR_LIST"] == environment["EPICS_PVAS_INTF_ADDR_LIST"] == "127.0.0.1"
    assert all(environment[name] == "NO" for name in environment if "_AUTO_" in name)


UNREADABLE = {
    "missing.toml": (None, "missing.toml: No such file or directory"),
    "broken.toml": (b"prefix = 'A:\n", "broken.toml: not TOML: "),
    "twice.toml": (b"prefix = 'A:'\nprefix = 'B:'\n", "twice.toml: not TOML: "),
    "binary.toml": (b"\x89HDF\r\n\xff", "binary.toml: not TOML: "),
    "wrong.toml": (b"prefx = 'A:'\n", "wrong.toml: prefx: there is no such key"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_an_ioc_with_a_bad_configuration_ends_with_one_line(fresh_place, name):
    content, message = UNREADABLE[name]
    if content is not None:
        (fresh_place.folder / name).write_bytes(content)
    printed, error = fresh_place.python("-m", "iocs.cli", "ioc", "detector", "--config", name, status=1)
    assert printed == "" and error.count("\n") == 1
    assert error.startswith("phaseline: ") and message in error


def test_env_prints_what_clients_need(fresh_place):
    config = fresh_place.folder / "c.toml"
    config.write_text(fresh_place.ports.toml())
    printed, _ = fresh_place.python("-m", "iocs.cli", "env", "--config", str(config))
    shown, _ = fresh_place.run(["bash", "-c", f"{printed}\nenv"])
    settings = dict(line.partition("=")[::2] for line in shown.splitlines())
    for name, value in fresh_place.ports.network.environment().items():
        assert settings[name] == value


def test_env_for_a_beamline_network_leaves_addresses_alone(fresh_place):
    (fresh_place.folder / "c.toml").write_text("[network]\nloopback = false\n")
    printed, _ = fresh_place.python("-m", "iocs.cli", "env", "--config", "c.toml")
    assert "EPICS_CA_SERVER_PORT" in printed and "ADDR_LIST" not in printed
