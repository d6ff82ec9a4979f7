"""Where a scan begins and how it ends, which frames belong to it, and the map that they make."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from edge_line import SCALE_RAD, Line, a_line
from frame_publisher import pattern
from harness import start_script
from made_models import geometry
from test_edge import PATIENCE_S

from iocs.live_maps import fetch_map
from iocs.maps import placed_map
from phasing.stitch import StitchedMap
from pvdb import Severity, edge

HERE = Path(__file__).parent
NAME = f"B{os.getpid()}:"
SCAN_PV, EXPECTED_PV = f"{NAME}Capture_RBV", f"{NAME}NumCapture_RBV"
DONE, CAPTURE = ([index, ["Done", "Capture"]] for index in (0, 1))
PIXEL_M = geometry().object_pixel_size_m


class ScanPvs:
    """The PVs of a beamline that say where a scan begins."""

    def __init__(self, folder: Path, protocol: str, **pvs: object) -> None:
        self._process = start_script(HERE / "scan_pvs.py", folder / "scan-pvs.log", protocol, json.dumps(pvs))

    def put(self, **pvs: object) -> None:
        done = self._process.count("done")
        self._process.tell(json.dumps(pvs))
        self._process.wait_count("done", done + 1)

    def close(self) -> None:
        self._process.stop()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Line, ScanPvs]]:
    folder = tmp_path_factory.mktemp("scans")
    more = f'scan_pv = "{SCAN_PV}"\nexpected_pv = "{EXPECTED_PV}"\n'
    with closing(ScanPvs(folder, "pva", **{SCAN_PV: DONE, EXPECTED_PV: 0})) as pvs, a_line(folder, more) as line:
        yield line, pvs


@pytest.fixture
def line(started: tuple[Line, ScanPvs]) -> Line:
    line, pvs = started
    pvs.put(**{SCAN_PV: DONE, EXPECTED_PV: 0})
    line.begin()
    return line


@pytest.fixture
def pvs(started: tuple[Line, ScanPvs]) -> ScanPvs:
    return started[1]


def _last_map(line: Line, scan_id: str, number: int) -> StitchedMap:
    """The map of a scan, once that many predictions are on it."""
    maps = line.stitched.until(
        lambda found: any(f.attributes["ScanId"] == scan_id and f.unique_id >= number for f in found),
        f"a map of {number} predictions of {scan_id}",
    )
    (frame,) = [f for f in maps if f.attributes["ScanId"] == scan_id and f.unique_id >= number][:1]
    assert frame.unique_id == number
    return placed_map(frame)


def test_two_scans_by_their_ids_are_counted_and_stitched_apart(line: Line) -> None:
    line.sent(6, first=100, scan_id="one", counts=10)
    line.balanced(6)
    one = _last_map(line, "one", 6)
    line.sent(4, first=106, scan_id="two", counts=20)
    line.balanced(10)
    two = _last_map(line, "two", 4)
    assert line.value(edge.SCAN_ID) == "two"
    assert (line.value(edge.SCAN_OUT), line.value(edge.FRAMES_OUT)) == (4, 10)
    for found, rad in ((one, 10 * SCALE_RAD), (two, 20 * SCALE_RAD)):
        np.testing.assert_allclose(found.phase_rad[found.weight > 0], rad, rtol=1e-5)


def test_the_map_of_a_scan_is_given_out_when_it_rests_and_when_another_has_begun(line: Line) -> None:
    line.sent(6, first=200, scan_id="rests", counts=10)
    _last_map(line, "rests", 6)
    assert _given_out(line, "rests") == pytest.approx(10 * SCALE_RAD)
    line.sent(4, first=206, scan_id="before", counts=20)
    line.sent(4, first=210, scan_id="after", counts=30)
    _last_map(line, "after", 4)
    for scan_id, counts in (("before", 20), ("rests", 10)):
        assert _given_out(line, scan_id) == pytest.approx(counts * SCALE_RAD)
    assert fetch_map(line.client.name(edge.MAP), "never seen", PATIENCE_S) is None


def _given_out(line: Line, scan_id: str) -> float:
    """The phase of a scan's map that the edge gives out, which is the same everywhere."""
    deadline = time.monotonic() + PATIENCE_S
    while (found := fetch_map(line.client.name(edge.MAP), scan_id, PATIENCE_S)) is None:
        assert time.monotonic() < deadline, f"the map of {scan_id} is not given out"
        time.sleep(0.1)
    return float(found.phase_rad[found.weight > 0].mean())


def test_the_map_is_what_the_predictions_say_where_they_were(line: Line) -> None:
    line.sent(1, first=21, counts=None)  # at (0.1, 0.1) um
    found = _last_map(line, line.scan, 1)
    assert found.pixel_size_m == pytest.approx(PIXEL_M)
    predicted = pattern(21, 16, "f4") * SCALE_RAD
    rows = (np.arange(16) - 8) * PIXEL_M + 1e-7  # pixel n // 2 lies at the position
    for (row, column), phase_rad in np.ndenumerate(found.phase_rad):
        y = (found.origin_m[0] + row * PIXEL_M - rows[0]) / PIXEL_M
        x = (found.origin_m[1] + column * PIXEL_M - rows[0]) / PIXEL_M
        (top, left), (dy, dx) = (int(y), int(x)), (y % 1, x % 1)
        square = predicted[top : top + 2, left : left + 2]
        expected = np.array([1 - dy, dy]) @ square @ np.array([1 - dx, dx])
        assert phase_rad == pytest.approx(expected, abs=1e-6)


def test_the_trust_in_a_flat_map_is_invalid_and_that_in_another_a_number(line: Line) -> None:
    line.sent(6, scan_id="flat", counts=10)
    _last_map(line, "flat", 6)
    line.shows_alarm(edge.CONSISTENCY_RATIO, Severity.INVALID)
    line.sent(6, scan_id="rough", counts=None)
    line.until(lambda: line.value(edge.CONSISTENCY_RATIO) > 0, "the ratio is a number")
    line.shows_alarm(edge.CONSISTENCY_RATIO, Severity.NO_ALARM)


def test_predictions_say_their_scan_model_pixel_and_place(line: Line) -> None:
    line.sent(1, first=43, scan_id="told", attributes={"Pulse": 7})
    (frame,) = line.phase.take(1)
    a = frame.attributes
    assert (a["ScanId"], a["ModelVersion"], a["Pulse"]) == ("told", 1, 7)
    assert (a["PixelSize"], a["SampleY"], a["SampleX"]) == pytest.approx((PIXEL_M, 2e-7, 3e-7))


def test_a_restarted_detector_begins_a_new_map_and_says_so(line: Line) -> None:
    line.sent(5, first=1000, counts=10)
    line.balanced(5)
    line.sent(5, first=0, counts=20)
    line.until(lambda: "went back to 0" in line.value(edge.MESSAGE), "the restart is told")
    line.shows_alarm(edge.MESSAGE, Severity.MINOR)
    line.balanced(10)
    assert line.value(edge.SCAN_OUT) == 5
    assert line.value(edge.FRAMES_MISSED) == 0
    maps = line.stitched.until(
        lambda found: (
            (found[-1].unique_id, found[-1].attributes["ScanId"]) == (5, line.scan)
            and placed_map(found[-1]).phase_rad.max() > 0.015
        ),
        "the map of the second part",
    )
    last = placed_map(maps[-1])
    np.testing.assert_allclose(last.phase_rad[last.weight > 0], 20 * SCALE_RAD, rtol=1e-5)


def test_a_detector_ioc_that_is_started_again_is_followed(line: Line) -> None:
    line.sent(5, first=1000, counts=10)
    line.balanced(5)
    line.publisher.kill()
    line.publisher = start_script(HERE / "frame_publisher.py", line.folder / "publisher.log", line.stream)
    line.send_until_seen(0, counts=20)  # the edge is connected again
    line.until(lambda: "went back to " in line.value(edge.MESSAGE), "the restart is told")
    seen = len(line.phase.take(6))
    line.balanced(seen)
    line.shows(edge.SCAN_OUT, seen - 5)
    assert line.value(edge.FRAMES_MISSED) == 0


def test_frames_of_another_energy_are_invalid_and_spoil_no_map(line: Line) -> None:
    line.sent(3, counts=10, attributes={"Energy": 10_400.0, "DetectorDistance": 1.55})
    line.sent(3, first=4, counts=20, attributes={"Energy": 8_000.0})
    line.shows(edge.FRAMES_MISMATCHED, 3)
    line.until(lambda: "energy 8000 eV" in line.value(edge.MESSAGE), "the energy is told")
    line.shows_alarm(edge.FRAMES_MISMATCHED, Severity.MAJOR)
    line.sent(3, first=7, counts=20, attributes={"DetectorDistance": 2.0})
    line.sent(3, first=10, counts=10)
    line.balanced(12)
    frames = line.phase.take(12)
    severities = [(frame.severity, bool(frame.message)) for frame in frames]
    assert severities == [(0, False)] * 3 + [(3, True)] * 6 + [(0, False)] * 3
    assert "distance 2 m" in frames[6].message
    line.shows(edge.FRAMES_MISMATCHED, 6)
    assert line.value(edge.FRAMES_OUT) == 12
    found = _last_map(line, line.scan, 6)
    np.testing.assert_allclose(found.phase_rad[found.weight > 0], 10 * SCALE_RAD, rtol=1e-5)
    line.sent(1, first=1, scan_id="next")
    line.shows_alarm(edge.FRAMES_MISMATCHED, Severity.NO_ALARM)


def _begin_scan(line: Line, first: int, former: str) -> int:
    """Send frames that name no scan until one is of a new scan, for the PV's news may come later; the next id."""
    deadline = time.monotonic() + PATIENCE_S
    for unique_id in count(first):
        assert time.monotonic() < deadline, "no scan begins"
        line.sent(1, first=unique_id, counts=10, scan_id="")
        found = line.phase.until(lambda found, sent=unique_id: found[-1].unique_id == sent, "the frame")
        if found[-1].attributes["ScanId"] not in ("", former):
            return unique_id + 1
    raise AssertionError("unreachable: ids have no end")


def test_a_capture_is_a_scan_and_ends_complete_or_aborted(line: Line, pvs: ScanPvs) -> None:
    line.sent(2, first=1, scan_id="")
    line.balanced(2)
    assert line.value(edge.SCAN_ID) == ""
    scans = [""]
    following = 100
    for expected, sent, state in ((8, 8, "Complete"), (8, 5, "Aborted")):
        pvs.put(**{EXPECTED_PV: expected})
        pvs.put(**{SCAN_PV: CAPTURE})
        following = _begin_scan(line, following, scans[-1])
        line.sent(sent - 1, first=following, scan_id="")
        following += sent - 1
        line.until(lambda sent=sent: line.value(edge.SCAN_OUT) == sent, f"{sent} predictions in the scan")
        line.shows(edge.SCAN_STATE, "Running")
        scans.append(line.value(edge.SCAN_ID))
        pvs.put(**{SCAN_PV: DONE})
        line.shows(edge.SCAN_STATE, state)
        line.shows_alarm(edge.SCAN_STATE, Severity.MINOR if state == "Aborted" else Severity.NO_ALARM)
        maps = line.stitched.until(
            lambda found, last=(state, sent): (found[-1].attributes["ScanState"], found[-1].unique_id) == last,
            f"a map of {sent} that is marked {state}",
        )
        assert maps[-1].attributes["ScanId"] == scans[-1]
    assert len(set(scans)) == 3
    assert line.value(edge.FRAMES_MISSED) == 0


def test_a_text_on_channel_access_is_the_scans_id(tmp_path: Path) -> None:
    name = f"{NAME}Scan"
    with (
        closing(ScanPvs(tmp_path, "ca", **{name: "first"})) as pvs,
        a_line(tmp_path, f'scan_pv = "ca://{name}"') as line,
    ):
        line.begin()
        following = _begin_scan(line, 1, "")
        line.sent(2, first=following, counts=10, scan_id="")
        line.shows(edge.SCAN_OUT, 3)
        assert line.value(edge.SCAN_ID) == "first"
        pvs.put(**{name: "second"})
        second = _begin_scan(line, following + 2, "first") - 1
        line.sent(3, first=second + 1, counts=20, scan_id="")
        line.shows(edge.SCAN_OUT, 4)
        assert line.value(edge.SCAN_ID) == "second"
        frames = line.phase.until(lambda found: found[-1].unique_id == second + 3, "the last frame")
        assert {f.unique_id: f.attributes["ScanId"] for f in frames} == {
            unique_id: "second" if unique_id >= second else "first" if unique_id >= following - 1 else ""
            for unique_id in range(1, second + 4)
        }
        assert line.value(edge.FRAMES_MISSED) == 0
