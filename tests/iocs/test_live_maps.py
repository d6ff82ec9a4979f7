"""Live maps on the edge's disk, and the procedure that gives them out."""

import os
import time
from itertools import pairwise
from pathlib import Path

import harness  # noqa: F401  it gives the tests ports of their own
import numpy as np
import pvaccess as pva
import pytest

from iocs import live_maps
from iocs.edge_messages import Note
from iocs.live_maps import EdgeAway, MapFiles, MapKeeper, MapServer, fetch_map
from phasing.stitch import StitchedMap


def made(value: float, side_px: int = 6) -> StitchedMap:
    phase_rad = np.full((side_px, side_px), value, np.float32)
    phase_rad[0, 0] = 0.5
    return StitchedMap(phase_rad, np.ones_like(phase_rad), (1e-6, -2e-6), 3e-8)


def same(one: StitchedMap | None, other: StitchedMap) -> bool:
    assert one is not None
    np.testing.assert_array_equal(one.phase_rad, other.phase_rad)
    return (one.origin_m, one.pixel_size_m) == (other.origin_m, other.pixel_size_m)


@pytest.mark.parametrize("scan_id", ["a", "2026/11: scan 7", "../../etc", "ü" * 300])
def test_a_map_is_found_by_its_scan_whatever_that_is_called(tmp_path: Path, scan_id: str) -> None:
    files = MapFiles(tmp_path / "maps")
    assert files.find(scan_id) is None
    files.keep(scan_id, made(1.0))
    files.keep(scan_id, made(2.0))
    assert same(MapFiles(tmp_path / "maps").find(scan_id), made(2.0))
    assert [path.parent for path in tmp_path.rglob("*.npz")] == [tmp_path / "maps"]


def test_a_damaged_map_is_none(tmp_path: Path) -> None:
    files = MapFiles(tmp_path)
    files.keep("a", made(1.0))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert files.find("a") is None


def test_the_oldest_make_way_by_number_and_by_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_maps, "KEPT_MAPS", 3)
    files = MapFiles(tmp_path)
    for number in range(5):
        files.keep(str(number), made(float(number)))
        for age, path in enumerate(sorted(tmp_path.iterdir(), key=lambda path: -path.stat().st_mtime_ns)):
            os.utime(path, ns=(10**18 - age * 10**9,) * 2)
    assert [number for number in range(5) if files.find(str(number)) is not None] == [2, 3, 4]
    monkeypatch.setattr(live_maps, "KEPT_BYTES", 10)
    files.keep("large", made(1.0, 100))
    assert len(list(tmp_path.iterdir())) == 1 and files.find("large") is not None, "the newest stays"


class Map:
    """A map to which predictions are added."""

    def __init__(self, scan_id: str) -> None:
        self.scan_id, self.added = scan_id, 0

    def map(self) -> StitchedMap | None:
        return made(float(self.added)) if self.added else None


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)


def test_a_map_is_kept_when_it_rests_and_again_when_it_grew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, files, notes = Clock(monkeypatch), MapFiles(tmp_path), list[Note]()
    keeper, one, two, nobodys = MapKeeper(files, notes.append), Map("one"), Map("two"), Map("")
    for growing in (one, two, nobodys):
        keeper.follow(growing)
    one.added = nobodys.added = 1
    keeper.look()
    clock.now_s += live_maps.REST_S / 2
    two.added = 5
    keeper.look()
    clock.now_s += live_maps.REST_S / 2
    keeper.look()
    assert same(files.find("one"), made(1.0)) and files.find("two") is None
    one.added = 2
    keeper.look()
    clock.now_s += live_maps.REST_S
    keeper.look()
    assert same(files.find("one"), made(2.0)) and same(files.find("two"), made(5.0))
    two.added = 6
    keeper.close()
    assert same(files.find("two"), made(6.0))
    assert len(list(tmp_path.iterdir())) == 2 and not notes


def test_an_incomplete_replay_takes_no_place_of_a_fuller_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, files = Clock(monkeypatch), MapFiles(tmp_path)
    keeper, scan, replay = MapKeeper(files, lambda note: None), Map("one"), Map("one")

    def rest() -> None:
        keeper.look()
        clock.now_s += live_maps.REST_S
        keeper.look()

    keeper.follow(scan)
    scan.added = 9
    rest()
    keeper.follow(replay)
    for replay.added, shown in ((5, 9.0), (8, 9.0), (9, 9.0), (10, 10.0)):
        rest()
        assert same(files.find("one"), made(shown))


def test_keeping_what_is_slow_to_keep_takes_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, files, kept = Clock(monkeypatch), MapFiles(tmp_path), list[float]()

    def keep(scan_id: str, found: StitchedMap) -> None:
        kept.append(clock.now_s)
        clock.now_s += 3.0

    monkeypatch.setattr(files, "keep", keep)
    keeper, growing = MapKeeper(files, lambda note: None), Map("one")
    keeper.follow(growing)
    while len(kept) < 3:
        growing.added += 1 if growing.added == len(kept) else 0
        keeper.look()
        clock.now_s += 0.25
    assert kept[0] < 101.0, "nothing was slow yet"
    assert all(later - former >= live_maps.REST * 3.0 for former, later in pairwise(kept))


def test_maps_that_are_over_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, files = Clock(monkeypatch), MapFiles(tmp_path)
    keeper = MapKeeper(files, lambda note: None)
    for number in range(10):
        growing = Map(str(number))
        growing.added = number
        keeper.follow(growing)
    keeper.look()
    clock.now_s += live_maps.REST_S
    keeper.look()
    assert [one.growing.scan_id for one in keeper._watched] == ["7", "8", "9"]
    assert files.find("0") is None and same(files.find("3"), made(3.0))


def test_a_disk_that_refuses_is_told_and_the_map_is_kept_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, folder, notes = Clock(monkeypatch), tmp_path / "maps", list[Note]()
    folder.write_text("a file where the folder should be")
    keeper, growing = MapKeeper(MapFiles(folder), notes.append), Map("one")
    keeper.follow(growing)
    growing.added = 1
    keeper.look()
    for _ in range(3):
        clock.now_s += live_maps.REST_S
        keeper.look()
    assert [note.text for note in notes] == ["the live map of one is not kept: File exists"]
    folder.unlink()
    clock.now_s += live_maps.AGAIN_S
    keeper.look()
    assert same(MapFiles(folder).find("one"), made(1.0))


def test_maps_are_given_out_over_pvaccess(tmp_path: Path) -> None:
    files = MapFiles(tmp_path)
    files.keep("a", made(1.0))
    name = f"M{os.getpid()}:Edge:Map"
    server = MapServer(name, files)
    try:
        assert same(fetch_map(name, "a", 30.0), made(1.0))
        assert fetch_map(name, "b", 30.0) is None
        for request in (pva.PvObject({"other": pva.INT}), pva.PvObject({"query": {"scan": pva.STRING}})):
            assert not pva.RpcClient(name).invoke(request, 30.0)["dimension"]
        assert same(fetch_map(name, "a", 30.0), made(1.0)), "it is there after what it could not answer"
    finally:
        server.stop()
    with pytest.raises(EdgeAway, match="Nowhere gives no answer"):
        fetch_map(f"{name}Nowhere", "a", 0.5)
