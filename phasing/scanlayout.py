"""Where things lie in a scan file: NXcxi_ptycho, with areaDetector's names as hard links to the same data.

Each fact has one place. Energy, distance, pixel size and mask are CXI's fields, the detector's shape is that of the
data, and the rest of the geometry block is one JSON string of ours. Positions are CXI's translation, (N, 3) m as
(x, y, z); frame ids and time stamps are areaDetector's attributes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import h5py
import numpy as np

from phasing.errors import GeometryError, ScanFileError
from phasing.geometry import ELECTRONVOLT_J, Geometry

DATA = "/entry_1/data_1/data"
TRANSLATION = "/entry_1/data_1/translation"
SCAN_ID = "/entry/entry_identifier"
ATTRIBUTES = "/entry/instrument/NDAttributes"
UNIQUE_ID = f"{ATTRIBUTES}/NDArrayUniqueId"
TIME_STAMP = f"{ATTRIBUTES}/NDArrayTimeStamp"
AREA_DETECTOR_DATA = "/entry/data/data"
ENERGY = "/entry_1/instrument_1/source_1/energy"
DISTANCE = "/entry_1/instrument_1/detector_1/distance"
X_PIXEL_SIZE = "/entry_1/instrument_1/detector_1/x_pixel_size"
Y_PIXEL_SIZE = "/entry_1/instrument_1/detector_1/y_pixel_size"
MASK = "/entry_1/instrument_1/detector_1/mask"
PROBE = "/entry_1/instrument_1/source_1/illumination"
START_TIME = "/entry_1/start_time"
PREPARATION = "/entry_1/phaseline/preparation"

# areaDetector counts NDArrayTimeStamp from EPICS' epoch, 1990-01-01 UTC; phaseline counts from Unix'.
EPICS_EPOCH_S = 631_152_000
CXI_VERSION = 160

# Fields of Geometry that have a place of their own in the file.
MEASURED = {"energy_ev": ENERGY, "distance_m": DISTANCE, "pixel_size_m": X_PIXEL_SIZE}
_ELSEWHERE = (*MEASURED, "detector_shape_px", "mask")

_CLASSES = {
    "/entry": "NXentry",
    "/entry/data": "NXdata",
    "/entry/instrument": "NXinstrument",
    "/entry/instrument/detector": "NXdetector",
    ATTRIBUTES: "NXcollection",
    "/entry_1": "NXentry",
    "/entry_1/data_1": "NXcollection",
    "/entry_1/instrument_1": "NXinstrument",
    "/entry_1/instrument_1/source_1": "NXsource",
    "/entry_1/instrument_1/beam_1": "NXbeam",
    "/entry_1/instrument_1/detector_1": "NXdetector",
    "/entry_1/sample_1": "NXsample",
    "/entry_1/sample_1/geometry_1": "NXcollection",
    "/entry_1/phaseline": "NXcollection",
}
_LINKS = {
    "/entry/instrument/detector/data": DATA,
    AREA_DETECTOR_DATA: DATA,
    "/entry_1/instrument_1/detector_1/data": DATA,
    "/entry_1/instrument_1/detector_1/translation": TRANSLATION,
    "/entry_1/sample_1/geometry_1/translation": TRANSLATION,
    "/entry_1/entry_identifier": SCAN_ID,
    "/entry_1/instrument_1/beam_1/energy": ENERGY,
    "/entry_1/instrument_1/beam_1/incident_beam_energy": ENERGY,
}


def create_groups(file: h5py.File) -> None:
    """Make the groups with their NeXus classes."""
    file.attrs["default"] = "entry_1"
    for path, nexus_class in _CLASSES.items():
        file.require_group(path).attrs["NX_class"] = nexus_class
    for path in ("/entry/data", "/entry/instrument/detector", "/entry_1/data_1", "/entry_1/instrument_1/detector_1"):
        file[path].attrs["signal"] = "data"
    file["cxi_version"] = CXI_VERSION
    file["/entry_1/definition"] = "NXptycho"
    file["/entry_1/title"] = "ptychography scan"
    # PyNX does not read a file in which the instrument has no name; a scan does not know it.
    file["/entry_1/instrument_1/name"] = "unknown"


def link(file: h5py.File) -> None:
    """Make the hard links, once their targets exist."""
    for path, target in _LINKS.items():
        file[path] = file[target]


def write_geometry(file: h5py.File, geometry: Geometry, nominal: tuple[str, ...]) -> None:
    """Write the geometry block; the fields named in nominal are marked as assumed, not measured."""
    quantities = (
        (ENERGY, geometry.energy_ev * ELECTRONVOLT_J, "J"),
        (DISTANCE, geometry.distance_m, "m"),
        (X_PIXEL_SIZE, geometry.pixel_size_m, "m"),
        (Y_PIXEL_SIZE, geometry.pixel_size_m, "m"),
    )
    for path, value, unit in quantities:
        file[path] = value
        file[path].attrs["units"] = unit
    for name in nominal:
        file[MEASURED[name]].attrs["nominal"] = True
    if geometry.mask is not None:
        file[MASK] = geometry.mask.astype(np.uint32)
    block = geometry.to_json()
    file[PREPARATION] = json.dumps({name: value for name, value in block.items() if name not in _ELSEWHERE})


def read_geometry(file: h5py.File) -> Geometry:
    """Read the geometry block back; ScanFileError (without the file's name) says what is missing or wrong."""
    if number(file, X_PIXEL_SIZE) != number(file, Y_PIXEL_SIZE):
        raise ScanFileError("the detector's pixels are not square")
    try:
        block: dict[str, Any] = json.loads(text(file, PREPARATION))
        block["energy_ev"] = number(file, ENERGY) / ELECTRONVOLT_J
        block["distance_m"] = number(file, DISTANCE)
        block["pixel_size_m"] = number(file, X_PIXEL_SIZE)
        block["detector_shape_px"] = dataset(file, DATA).shape[1:]
        geometry = Geometry.from_json(block)
        return replace(geometry, mask=file[MASK][()] != 0) if MASK in file else geometry
    except (GeometryError, ValueError, TypeError) as error:
        raise ScanFileError(f"{PREPARATION}: {error}") from error


def read_nominal(file: h5py.File) -> tuple[str, ...]:
    """Name the fields of the geometry that were assumed, not measured."""
    return tuple(name for name, path in MEASURED.items() if file[path].attrs.get("nominal", False))


def dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """Return a dataset; ScanFileError (without the file's name) when it is not there."""
    item = file.get(path)
    if not isinstance(item, h5py.Dataset):
        raise ScanFileError(f"{path} is missing")
    return item


def number(file: h5py.File, path: str) -> float:
    """Read one number."""
    item = dataset(file, path)
    if item.size != 1 or item.dtype.kind not in "iuf":
        raise ScanFileError(f"{path} is not a number")
    return float(np.ravel(item[()])[0])


def text(file: h5py.File, path: str) -> str:
    """Read one string."""
    item = dataset(file, path)
    if h5py.check_string_dtype(item.dtype) is None or item.shape != ():
        raise ScanFileError(f"{path} is not a string")
    return str(item.asstr()[()])
