"""What the demo scans, and the configuration that makes it fit a small machine."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from iocs.config import Config, ConfigError, parse
from phasing.scanfile import read_scan
from pvdb import Pv, detector

MARKER = ".phaseline-demo"
_REGIONS_UM = ((0.0, 0.0), (6.0, 0.0), (0.0, 6.0), (6.0, 6.0))
POSITIONS = 600
SWAP_SCAN_S = 15.0


@dataclass(frozen=True)
class ScanPlan:
    """One scan: simulated around a region of the sample, or replayed from a file; `saved` says whether to write it."""

    num_frames: int
    rate_hz: float
    region_um: tuple[float, float] = (0.0, 0.0)
    replay: Path | None = None
    part: Literal["Whole", "Left half", "Right half"] = "Whole"
    saved: bool = True

    def setpoints(self) -> dict[Pv, Any]:
        """What to put before the scan."""
        common: dict[Pv, Any] = {
            detector.ACQUIRE_TIME: 0.5 / self.rate_hz,
            detector.ACQUIRE_PERIOD: 1.0 / self.rate_hz,
            detector.NUM_IMAGES: self.num_frames,
            detector.NUM_CAPTURE: self.num_frames,
        }
        if self.replay is not None:
            return common | {
                detector.SOURCE: "Replay",
                detector.REPLAY_FILE: str(self.replay.resolve()),
                detector.REPLAY_PART: self.part,
            }
        y_um, x_um = self.region_um
        return common | {detector.SOURCE: "Simulated", detector.REGION_Y: y_um, detector.REGION_X: x_um}


@dataclass(frozen=True)
class Plan:
    """Four scans: the first without a model, the third long enough for the second model to come within it."""

    scans: tuple[ScanPlan, ScanPlan, ScanPlan, ScanPlan]

    @property
    def unpredicted(self) -> int:
        """Frames that come before there is a model."""
        return self.scans[0].num_frames


def simulated_plan(positions: int | None = None) -> Plan:
    """Four regions of the simulated sample; scan 3 lasts until the second model is exported, fetched and warmed."""
    number = positions or POSITIONS
    rates_hz = (100.0, 100.0, 60.0, 100.0)
    lengths = (number, number, max(number, int(SWAP_SCAN_S * rates_hz[2])), number)
    scans = tuple(ScanPlan(n, rate, region) for n, rate, region in zip(lengths, rates_hz, _REGIONS_UM, strict=True))
    return Plan(scans)  # type: ignore[arg-type]


def replay_plan(path: Path) -> Plan:
    """Left half, right half, the whole twice; ScanFileError when the file cannot be read."""
    scan = read_scan(path)
    x_m = scan.position_m[:, 1]
    left = int((x_m < (x_m.min() + x_m.max()) / 2).sum())
    lengths = (left, scan.num_frames - left, scan.num_frames, scan.num_frames)
    parts: tuple[Literal["Whole", "Left half", "Right half"], ...] = ("Left half", "Right half", "Whole", "Whole")
    scans = tuple(ScanPlan(n, 50.0, replay=path, part=part) for n, part in zip(lengths, parts, strict=True))
    return Plan(scans)  # type: ignore[arg-type]


def configuration(scan: Path | None) -> Config:
    """The demo's configuration; the geometry is the scan file's where one is replayed."""
    values: dict[str, Any] = {
        "train": {"batch_size": 16, "num_epochs": 20 if scan else 24},
        "reconstruct": {"num_epochs": 25, "batch_size": 50},
    }
    if scan is None:
        return parse(values, where="demo")
    geometry = read_scan(scan).geometry
    if any(array is not None for array in (geometry.mask, geometry.dark_counts, geometry.flat)):
        raise ConfigError(f"{scan} has a mask, dark or flat: give them in a configuration file with --config")
    block = geometry.to_json()
    values["geometry"] = {k: v for k, v in block.items() if v is not None}
    values["reconstruct"]["defocus_m"] = None
    values["experiment"] = {"proposal": "replay", "sample": scan.stem[:39], "optics": "of the scan file"}
    return parse(_without_none(values), where="demo")


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in values.items()}


def marked_folder(output: Path) -> None:
    """Make the output folder, empty of an earlier demo's data; a folder that is not a demo's is not touched."""
    marker = output / MARKER
    if output.exists() and any(output.iterdir()) and not marker.exists():
        raise ConfigError(f"{output} holds something else: choose another folder with --output")
    shutil.rmtree(output / "data", ignore_errors=True)
    output.mkdir(parents=True, exist_ok=True)
    marker.touch()
