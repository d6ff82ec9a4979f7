"""Pictures of reconstructions, made beside the event loop."""

import asyncio
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import iocs.workflow_pictures
from iocs.workflow_pictures import Pictures
from pvdb import workflow as pvs

PATIENCE_S = 60.0


class Place:
    """Pictures, with the IOC and the stream that they are shown on."""

    def __init__(self) -> None:
        self.published: list[Any] = []
        self.told: list[Any] = []
        ioc: Any = SimpleNamespace(loop=asyncio.get_running_loop(), tell=lambda *told: self.told.append(told))
        streams: Any = SimpleNamespace(publish=lambda name, frame: self.published.append(frame))
        self.pictures = Pictures(ioc, streams, "image")


def test_the_loop_goes_on_while_a_map_is_made_and_the_order_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    let_go = threading.Event()
    _reconstruction(monkeypatch, lambda: let_go.wait(PATIENCE_S))
    np.save(tmp_path / "preview.npy", np.zeros((2, 3)))

    async def main() -> None:
        place = Place()
        place.pictures.reconstruction(tmp_path / "map.h5")
        place.pictures.preview(tmp_path / "preview.npy", 5)
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
        place.pictures.preview(tmp_path / "preview.npy", 5)
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


def _reconstruction(monkeypatch: pytest.MonkeyPatch, before: Callable[[], object]) -> None:
    """Let every file be a small reconstruction whose map is made once `before` returns."""
    found = SimpleNamespace(scan_id="scan", error_history=(2.0, 1.0), phase_map=before)
    monkeypatch.setattr(iocs.workflow_pictures.Reconstruction, "load", lambda path: found)
    monkeypatch.setattr(
        iocs.workflow_pictures,
        "map_frame",
        lambda made, unique_id, time_ns, attributes: SimpleNamespace(unique_id=unique_id, attributes=attributes),
    )
