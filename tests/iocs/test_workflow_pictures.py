"""Pictures of reconstructions, made beside the event loop."""

import asyncio
import math
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import iocs.workflow_pictures
from hpc_bridge.remote_files import LocalFiles
from iocs.live_maps import EdgeAway
from iocs.stream import NdFrame
from iocs.workflow_pictures import Pictures
from phasing.geometry import Geometry
from phasing.reconstruction import Reconstruction
from phasing.stitch import StitchedMap
from pvdb import workflow as pvs

PATIENCE_S = 300.0


class Place:
    """Pictures, with the IOC and the stream that they are shown on."""

    def __init__(self, live_map: Callable[[str], StitchedMap | None] = lambda scan_id: None) -> None:
        self.published: list[Any] = []
        self.differences: list[NdFrame] = []
        self.told: list[Any] = []
        self.correlations: list[float] = []
        ioc: Any = SimpleNamespace(
            loop=asyncio.get_running_loop(),
            name=lambda pv: pv.name,
            post=lambda pv, value: self.correlations.append(value),
            tell=lambda *told: self.told.append(told),
        )
        self.pictures = Pictures(ioc, SimpleNamespace(publish=self._publish), LocalFiles(), live_map)  # type: ignore[arg-type]

    def _publish(self, name: str, frame: Any) -> None:
        (self.differences if name == pvs.DIFFERENCE.name else self.published).append(frame)


def test_the_loop_goes_on_while_a_map_is_made_and_the_order_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    let_go = threading.Event()
    _reconstruction(monkeypatch, lambda: let_go.wait(PATIENCE_S))
    np.save(tmp_path / "preview.npy", np.zeros((2, 3)))

    async def main() -> None:
        place = Place()
        place.pictures.reconstruction(tmp_path / "map.h5")
        place.pictures.preview(str(tmp_path / "preview.npy"), 5)
        shown = asyncio.create_task(place.pictures.shown())
        await asyncio.sleep(0)
        assert not shown.done() and not place.published
        let_go.set()
        await shown
        assert [(frame.unique_id, frame.attributes["Epoch"]) for frame in place.published] == [(1, 2), (2, 5)]

    asyncio.run(main())


def test_a_map_that_cannot_be_made_is_told_and_the_next_is_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    np.save(tmp_path / "preview.npy", np.zeros((2, 3)))

    async def main() -> None:
        place = Place()
        place.pictures.reconstruction(tmp_path / "missing.h5")
        place.pictures.preview(str(tmp_path / "preview.npy"), 5)
        await place.pictures.shown()
        assert len(place.published) == 1
        assert place.told[0][0] is pvs.RECON_MESSAGE and "missing.h5" in place.told[0][1]

    asyncio.run(main())


def test_a_map_that_is_ready_after_the_stop_is_not_published(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    let_go, made = threading.Event(), threading.Event()
    _reconstruction(monkeypatch, lambda: let_go.wait(PATIENCE_S))

    async def main() -> Place:
        place = Place()
        place.pictures.reconstruction(tmp_path / "map.h5")
        place.pictures._wanted.put(made.set)
        place.pictures.stop()
        return place

    place = asyncio.run(main())
    let_go.set()
    assert made.wait(PATIENCE_S)
    assert not place.published and not place.told


def written(folder: Path, scan_id: str = "scan") -> tuple[Path, StitchedMap]:
    """A reconstruction of structure that a wrong map does not have, on the disk, and its phase map."""
    geometry = Geometry(10_400.0, 1.55, 110e-6, (16, 16), 16)
    rows, columns = np.indices((64, 64))
    phase_rad = 0.3 * np.sin(rows / 5.0) * np.cos(columns / 7.0)
    position_m = 1e-8 * np.stack([rows[8:56:4, 8:56:4].ravel(), columns[8:56:4, 8:56:4].ravel()], axis=1)
    made = Reconstruction(
        scan_id=scan_id,
        object=np.exp(1j * phase_rad).astype(np.complex64),
        probe=np.ones((1, 16, 16), np.complex64),
        pixel_size_m=1e-8,
        origin_m=(0.0, 0.0),
        position_m=position_m,
        unique_id=np.arange(len(position_m)),
        error_history=(1.0,),
        geometry=geometry,
    )
    made.save(folder / f"{scan_id}.h5")
    return folder / f"{scan_id}.h5", made.phase_map()


def test_the_live_map_of_the_scan_is_compared_with_the_reconstruction(tmp_path: Path) -> None:
    path, reconstructed = written(tmp_path)
    _, columns = np.indices(reconstructed.phase_rad.shape)
    off = np.where(columns > 40, 0.1, 0.0) * np.sin(columns)
    tilted = reconstructed.phase_rad + off + 0.7 + 0.01 * columns
    live = replace(reconstructed, phase_rad=tilted.astype(np.float32))
    asked = []

    def live_map(scan_id: str) -> StitchedMap:
        asked.append(scan_id)
        return live

    async def main() -> None:
        place = Place(live_map)
        place.pictures.reconstruction(path)
        await place.pictures.shown()
        assert asked == ["scan"] and not place.told
        assert math.isnan(place.correlations[0]) and 0.9 < place.correlations[1] < 0.999
        (difference,) = place.differences
        assert difference.attributes["ScanId"] == "scan" and difference.attributes["PixelSize"] == 1e-8
        shown = difference.array[24:40, 12:52]
        assert np.abs(shown - off[24:40, 12:52]).max() < 0.02, "constant and ramp are removed, what else differs is not"

    asyncio.run(main())


def test_a_scan_that_the_edge_has_not_seen_has_no_correlation(tmp_path: Path) -> None:
    one, _ = written(tmp_path, "one")
    two, reconstructed = written(tmp_path, "two")

    async def main() -> None:
        place = Place({"one": reconstructed}.get)
        for path in (one, two):
            place.pictures.reconstruction(path)
        await place.pictures.shown()
        assert place.correlations[1] == pytest.approx(1.0) and math.isnan(place.correlations[2])
        assert len(place.differences) == 1 and len(place.published) == 2 and not place.told

    asyncio.run(main())


def test_an_edge_that_is_away_is_not_waited_for_by_every_picture(tmp_path: Path) -> None:
    path, reconstructed = written(tmp_path)
    asked = []

    def live_map(scan_id: str) -> StitchedMap:
        asked.append(scan_id)
        if len(asked) == 1:
            raise EdgeAway("no answer")
        return reconstructed

    async def main() -> None:
        place = Place(live_map)
        for _ in range(3):
            place.pictures.reconstruction(path)
        await place.pictures.shown()
        assert len(asked) == 1 and not place.told and not place.differences
        place.pictures._ask_again_s = 0.0
        place.pictures.reconstruction(path)
        await place.pictures.shown()
        assert len(asked) == 2 and place.correlations[-1] == pytest.approx(1.0)

    asyncio.run(main())


def test_a_live_map_of_another_place_is_told(tmp_path: Path) -> None:
    path, reconstructed = written(tmp_path)

    async def main() -> None:
        place = Place(lambda scan_id: replace(reconstructed, origin_m=(1.0, 1.0)))
        place.pictures.reconstruction(path)
        await place.pictures.shown()
        assert math.isnan(place.correlations[-1]) and not place.differences
        (told,) = place.told
        assert told[0] is pvs.RECON_MESSAGE and "scan: the live map cannot be compared: " in told[1]

    asyncio.run(main())


def _reconstruction(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]) -> None:
    """Let every file be a small reconstruction whose map is made once `before` returns."""
    found = SimpleNamespace(scan_id="scan", error_history=(2.0, 1.0), phase_map=before)
    monkeypatch.setattr(iocs.workflow_pictures.Reconstruction, "load", lambda path: found)
    monkeypatch.setattr(
        iocs.workflow_pictures,
        "map_frame",
        lambda made, unique_id, time_ns, attributes: SimpleNamespace(unique_id=unique_id, attributes=attributes),
    )
