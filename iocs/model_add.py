"""`phaseline model add`: a network trained elsewhere becomes a version of the model registry."""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

from iocs.config import Config
from iocs.workflow_layout import Layout
from phasing.card import ModelCard, lineage_key
from phasing.checkpoint import Checkpoint, save_checkpoint
from phasing.export import export_onnx
from phasing.foreign import central_weight, foreign_card, read_network, read_weight
from phasing.geometry import Geometry
from phasing.published import published_checkpoint
from phasing.store import Registry
from pvdb import full_name
from pvdb import workflow as pvs

WEIGHTS = (".pth", ".pt")
EXPLANATION = """\
Register a network that was trained elsewhere, so that the edge can serve it. Any ONNX file will do that has one input
and one output, both float32 of shape (B, 1, n, n), whatever their names; B may be open or a number, such as 8. From
weights of PtychoNN (a state dict in a .pth file, as PyTorch saves it on whatever device) training can go on as well.

Such a file does not say how frames are prepared for it. What the configuration's [geometry] says is used, but for what
is given here. The network was trained on frames of one energy, distance and pixel size: give what differs.
"""
EXAMPLE = """\
example, for a 516 x 516 detector and a network that takes 128 x 128 pixels, 516 - 2 x 2 = 512, / 4 = 128:
  phaseline model add best_model.onnx --raw-shape 516 516 --crop 2 --bin 4 --object-pixel-size-m 10e-9

Without a probe, predictions are weighted in the stitched map by the product of two squared sines: most at a patch's
centre, nothing at its rim. Nothing goes live by itself: no loss of such a network is known, so the gate never compares
it. Put its version on Model:Select.
"""


def declare(parser: argparse.ArgumentParser) -> None:
    """Add the options of `model add` to its parser."""
    parser.description, parser.epilog = EXPLANATION, EXAMPLE
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", type=Path, metavar="FILE", help="an ONNX file, or weights of PtychoNN (.pth, .pt)")
    frames = parser.add_argument_group("how the detector's frames become the network's input")
    frames.add_argument("--raw-shape", type=int, nargs=2, metavar=("H", "W"), help="rows and columns of a raw frame")
    frames.add_argument("--crop", type=int, metavar="N", help="pixels cut off each side of the raw frame")
    frames.add_argument("--bin", type=int, metavar="N", help="the mean of N x N pixels becomes one")
    frames.add_argument(
        "--counts-scale", type=float, default=1.0, metavar="X",
        help="what counts are multiplied by before they enter the network (default: 1)",
    )  # fmt: skip
    set_up = parser.add_argument_group("what the network was trained for")
    set_up.add_argument("--energy-ev", type=float, metavar="EV", help="photon energy")
    set_up.add_argument("--distance-m", type=float, metavar="M", help="sample to detector")
    set_up.add_argument("--pixel-size-m", type=float, metavar="M", help="pixel of the detector")
    set_up.add_argument(
        "--object-pixel-size-m", type=float, metavar="M",
        help="pixel of a prediction in the sample plane (default: wavelength x distance / width of the cropped frame)",
    )  # fmt: skip
    set_up.add_argument(
        "--probe", type=Path, metavar="FILE.npy",
        help="weight of a prediction's pixels in the stitched map: (n, n) numbers, or a complex probe (..., n, n)",
    )  # fmt: skip
    set_up.add_argument(
        "--lineage", metavar="NAME",
        help="family of models that may follow one another (default: this experiment's, for the geometry above)",
    )  # fmt: skip


def defaults(file: Path) -> argparse.Namespace:
    """The options for a file of which nothing else is said."""
    parser = argparse.ArgumentParser()
    declare(parser)
    return parser.parse_args([str(file)])


def add(config: Config, options: argparse.Namespace) -> ModelCard:
    """Check the file, make its card, and put both into the registry below the configuration's root.

    Safe while the workflow IOC runs. Raises ModelError or GeometryError; then the registry is as it was.
    """
    geometry = chosen_geometry(config.geometry.geometry(), options)
    wanted_m = options.object_pixel_size_m
    pixel_size_m = geometry.object_pixel_size_m if wanted_m is None else wanted_m
    weight = None if options.probe is None else read_weight(options.probe, geometry.frame_px)
    layout = Layout.below(config.root, config.scans)
    lineage = options.lineage or experiment_lineage(config, layout, geometry)
    registry = Registry(layout.registry)
    if options.file.suffix in WEIGHTS:
        checkpoint = published_checkpoint(
            options.file,
            geometry,
            counts_scale=options.counts_scale,
            pixel_size_m=pixel_size_m,
            probe_intensity=central_weight(geometry.frame_px) if weight is None else weight,
        )
        return _registered(registry, checkpoint, lineage)
    draft = foreign_card(
        read_network(options.file),
        geometry,
        lineage,
        counts_scale=options.counts_scale,
        pixel_size_m=pixel_size_m,
        weight=weight,
    )
    return registry.publish(options.file, None, draft)


def _registered(registry: Registry, checkpoint: Checkpoint, lineage: str) -> ModelCard:
    """Export weights and put both into the registry."""
    with tempfile.TemporaryDirectory() as folder:
        weights, network = Path(folder, "checkpoint.pt"), Path(folder, "model.onnx")
        save_checkpoint(checkpoint, weights)
        return registry.publish(network, weights, export_onnx(weights, network, lineage=lineage))


def run(config: Config, options: argparse.Namespace) -> int:
    """Add a model, and say what it became and how to put it live."""
    card = add(config, options)
    geometry = card.geometry
    print(f"version {card.version}, sha256 {card.digest}")
    print(
        f"frames {geometry.detector_shape_px[0]} x {geometry.detector_shape_px[1]}, cropped to {geometry.crop_px},"
        f" binned by {geometry.bin_px}: {geometry.frame_px} x {geometry.frame_px}; counts times {card.counts_scale:g}"
    )
    print(
        f"{geometry.energy_ev:g} eV, {geometry.distance_m:g} m, pixel {geometry.pixel_size_m:g} m;"
        f" pixel of the prediction {card.pixel_size_m:g} m"
    )
    print(f"lineage {card.lineage}")
    layout = Layout.below(config.root, config.scans)
    experiment = experiment_lineage(config, layout, config.geometry.geometry())
    if card.lineage != experiment:
        print(f"  not this experiment's, {experiment}: it can be put live by hand, and no round trains from it")
    print(f"in {(config.root / 'registry').resolve()}")
    print(f"put it live: caput {full_name(config.prefix, pvs.SELECT)} {card.version}")
    return 0


def chosen_geometry(configured: Geometry, options: argparse.Namespace) -> Geometry:
    """The configured geometry with what the options change.

    With a raw shape or a crop of its own, the square lies in the middle of the raw frame. Raises GeometryError.
    """
    shape = tuple(options.raw_shape) if options.raw_shape else configured.detector_shape_px
    crop_px, center = configured.crop_px, configured.crop_center_px
    if options.raw_shape or options.crop is not None:
        crop_px, center = min(shape) - 2 * (options.crop or 0), None
    given = {"energy_ev": options.energy_ev, "distance_m": options.distance_m, "pixel_size_m": options.pixel_size_m}
    return replace(
        configured,
        detector_shape_px=shape,
        crop_px=crop_px,
        crop_center_px=center,
        bin_px=configured.bin_px if options.bin is None else options.bin,
        **{name: value for name, value in given.items() if value is not None},
    )


def experiment_lineage(config: Config, layout: Layout, geometry: Geometry) -> str:
    """The lineage of the present experiment, for frames of that geometry: as switched by PVs, else as configured."""
    names = {pvs.PROPOSAL: config.experiment.proposal, pvs.SAMPLE: config.experiment.sample}
    try:
        kept = json.loads(layout.switches.read_text())
    except FileNotFoundError:
        kept = {}
    proposal, sample = (kept.get(pv.name, configured) for pv, configured in names.items())
    return lineage_key(f"{proposal} {sample}", geometry, config.experiment.optics)
