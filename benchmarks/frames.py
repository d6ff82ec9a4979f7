"""What all measurements share: simulated frames with positions, the network of 733,921 parameters, and its cards."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from phasing.card import ModelCard
from phasing.geometry import Geometry
from phasing.simulate import Optics, SimulatedScan, spiral

STREAM = "BENCH:Source:Image"
PREFIX = "BENCH:"
NUM_FRAMES = 480
NUM_LARGE = 48
_STEP_M = 50e-9
_START_FRAMES = 32
_BRIGHTEST = 99.0


@dataclass(frozen=True)
class Material:
    """Files of one run: `frames-128.npz` and `frames-512.npz`, and models 1, 2 (networks) and 3 (passes through)."""

    folder: Path

    def frames(self, side_px: int) -> Path:
        """The .npz with `counts` (N, side, side) uint16 and `position_m` (N, 2)."""
        return self.folder / f"frames-{side_px}.npz"

    def onnx(self, version: int) -> Path:
        """A model's ONNX file."""
        return self.folder / f"{version}.onnx"

    def card(self, version: int) -> Path:
        """A model's card as JSON."""
        return self.folder / f"{version}.json"

    def read_card(self, version: int) -> ModelCard:
        """The same, parsed."""
        return ModelCard.from_json(json.loads(self.card(version).read_text()))


def geometry(side_px: int) -> Geometry:
    """26-ID's optics on 128 pixels of 55 um that are used whole, or on 512 that are binned by 4."""
    bin_px = 4 if side_px == 512 else 1
    return Geometry(
        energy_ev=10_400.0,
        distance_m=1.55,
        pixel_size_m=55e-6,
        detector_shape_px=(side_px, side_px),
        crop_px=side_px,
        bin_px=bin_px,
    )


def make(folder: Path, *, num: int = NUM_FRAMES, num_large: int = NUM_LARGE) -> Material:
    """Write all files of a run. Networks have phasing's first weights: their speed is that of trained ones."""
    material = Material(folder)
    for side_px, count in ((128, num), (512, num_large)):
        scan = SimulatedScan(geometry(side_px), spiral(count, _STEP_M))
        np.savez(material.frames(side_px), counts=scan.frames(), position_m=scan.position_m)
    with np.load(material.frames(128)) as saved:
        counts = saved["counts"][:_START_FRAMES].astype(np.float32)
    scale = float(1.0 / np.percentile(counts.max(axis=(1, 2)), _BRIGHTEST))
    for version in (1, 2):
        _network(material, version, counts * np.float32(scale), scale)
    _pass_through(material, 3)
    return material


def _network(
    material: Material, version: int, scaled: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]", scale: float
) -> None:
    import torch

    from phasing.checkpoint import bare_checkpoint, save_checkpoint
    from phasing.export import export_onnx
    from phasing.network import PtychoNN, start_weights

    torch.manual_seed(version)
    network = PtychoNN()
    start_weights(network, torch.from_numpy(scaled[:, None]))
    probe = np.abs(Optics().probe(geometry(128))) ** 2
    checkpoint = bare_checkpoint(
        network.state_dict(),
        geometry(128),
        counts_scale=scale,
        pixel_size_m=geometry(128).object_pixel_size_m,
        probe_intensity=(probe / probe.max()).astype(np.float32),
    )
    path = material.folder / f"{version}.pt"
    save_checkpoint(checkpoint, path)
    card = export_onnx(path, material.onnx(version), lineage="bench")
    material.card(version).write_text(json.dumps(replace(card, version=version).to_json()))


def _pass_through(material: Material, version: int) -> None:
    """A model of no cost: one node that lets its input pass, within the -pi to pi that an engine may return."""
    import hashlib

    from onnx import TensorProto, helper

    shape = ["batch", 1, 128, 128]
    limits = [
        helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("low", -3.0), ("high", 3.0))
    ]
    graph = helper.make_graph(
        [helper.make_node("Clip", ["input", "low", "high"], ["phase_rad"])],
        "pass-through",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("phase_rad", TensorProto.FLOAT, shape)],
        limits,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    material.onnx(version).write_bytes(model.SerializeToString())
    digest = hashlib.sha256(material.onnx(version).read_bytes()).hexdigest()
    card = replace(material.read_card(1), version=version, digest=digest, created_s=time.time())
    material.card(version).write_text(json.dumps(card.to_json()))


if __name__ == "__main__":
    make(Path(sys.argv[1]), num=int(sys.argv[2]), num_large=int(sys.argv[3]))
    print("ready", flush=True)
