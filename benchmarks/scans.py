"""Small simulated scans, and the PV by which a plan says that one has ended; for benchmarks, tests and the campaign."""

from pathlib import Path

import numpy as np
import pvaccess as pva

from phasing.frames import Frame
from phasing.geometry import Geometry
from phasing.scanfile import ScanWriter
from phasing.simulate import SimulatedScan, spiral


def write_scan(
    path: Path,
    geometry: Geometry,
    frames: int,
    *,
    step_m: float = 150e-9,
    seed: int = 0,
    x_m: float = 0.0,
    begin_s: float = 1e9,
) -> Path:
    """Write a scan whose id is the file's stem, begun at a Unix time around a place of its own on the sample."""
    position_m = spiral(frames, step_m, center_m=(0.0, x_m))
    scan = SimulatedScan(geometry, position_m, seed=seed)
    with ScanWriter(path, path.stem, geometry, dtype=np.dtype(np.uint16)) as writer:
        for i, counts in enumerate(scan.frames()):
            place_y_m, place_x_m = position_m[i].tolist()
            writer.append(Frame(i + 1, begin_s + i, path.stem, counts, (place_y_m, place_x_m)))
    return path


class Trigger:
    """The PV that a plan writes the name of a finished scan's file to."""

    def __init__(self, name: str) -> None:
        self._name, self._server = name, pva.PvaServer()
        self._server.addRecord(name, self._text(""))

    def post(self, text: str) -> None:
        self._server.update(self._name, self._text(text))

    def close(self) -> None:
        self._server.stop()

    @staticmethod
    def _text(text: str) -> pva.PvObject:
        return pva.PvObject({"value": pva.STRING}, {"value": text})
