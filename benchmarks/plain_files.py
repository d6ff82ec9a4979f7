"""Files as areaDetector's HDF5 plugin and synApps' saveData write them."""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

DATA, ATTRIBUTES = "/entry/data/data", "/entry/instrument/NDAttributes"
EPICS_EPOCH_S = 631_152_000


def write_plain(
    path: Path, counts: NDArray[Any], unique_id: NDArray[Any], *, data: str = DATA, **attributes: Any
) -> Path:
    """A file of the plugin: frames, their ids and time stamps, and what attributes are given, (N,) each."""
    with h5py.File(path, "w") as file:
        file.create_dataset(data, data=counts, chunks=(1, *counts.shape[1:]), maxshape=(None, *counts.shape[1:]))
        columns = {"NDArrayUniqueId": unique_id, "NDArrayTimeStamp": 1e9 + 0.01 * np.arange(len(unique_id))}
        for name, values in (columns | attributes).items():
            if values is not None:
                file[f"{ATTRIBUTES}/{name}"] = values
    return path


Columns = Mapping[str, Sequence[float]]


def write_mda(path: Path, positioners: Columns, detectors: Columns, *, requested: int = 0) -> Path:
    """A one-dimensional scan: positioners by the PV of their readback, detectors by PV; `requested` points at least."""
    path.write_bytes(
        _header([max(requested, _points(positioners, detectors))]) + _scan1(positioners, detectors, requested)
    )
    return path


def write_mda_2d(path: Path, outer: Columns, lines: Sequence[tuple[Columns, Columns]], *, requested: int = 0) -> Path:
    """A two-dimensional scan: outer positioners, and for each of their points positioners and detectors of a line.

    One line more than the outer has points is one that was not completed.
    """
    points = len(next(iter(outer.values())))
    total = max(requested, points, len(lines))
    head = _header([total, max(_points(*line) for line in lines)])
    start = struct.pack(">iii", 2, total, points)
    body = _text("scan2") + _text("Nov 26, 2026 12:00:00.000000") + _columns(outer, {}, total)
    at, pointers, inner = len(head) + len(start) + 4 * total + len(body), [], b""
    for line in lines:
        pointers.append(at + len(inner))
        inner += _scan1(*line, 0)
    pointers += [0] * (total - len(pointers))
    path.write_bytes(head + start + struct.pack(f">{total}i", *pointers) + body + inner)
    return path


def _header(dims: list[int]) -> bytes:
    return struct.pack(f">fii{len(dims)}iii", 1.4, 7, len(dims), *dims, 1, 0)


def _scan1(positioners: Columns, detectors: Columns, requested: int) -> bytes:
    points = _points(positioners, detectors)
    total = max(requested, points)
    head = struct.pack(">iii", 1, total, points)
    return head + _text("scan1") + _text("Nov 26, 2026 12:00:00.000000") + _columns(positioners, detectors, total)


def _points(positioners: Columns, detectors: Columns) -> int:
    return len(next(iter({**positioners, **detectors}.values())))


def _columns(positioners: Columns, detectors: Columns, total: int) -> bytes:
    made = struct.pack(">iii", len(positioners), len(detectors), 1)
    for number, name in enumerate(positioners):
        texts = (name.removesuffix(".RBV") + ".VAL", "a motor", "LINEAR", "um", name, "", "um")
        made += struct.pack(">i", number) + b"".join(map(_text, texts))
    for number, name in enumerate(detectors):
        made += struct.pack(">i", number) + b"".join(map(_text, (name, "", "")))
    made += struct.pack(">i", 0) + _text("13SIM1:cam1:Acquire") + struct.pack(">f", 1.0)
    for letter, columns in (("d", positioners), ("f", detectors)):
        for values in columns.values():
            made += struct.pack(f">{total}{letter}", *values, *[0.0] * (total - len(values)))
    return made


def _text(text: str) -> bytes:
    if not text:
        return struct.pack(">i", 0)
    characters = text.encode()
    return struct.pack(">ii", len(text), len(text)) + characters + bytes(-len(characters) % 4)
