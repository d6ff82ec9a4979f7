"""Frames as areaDetector sends them, through a whole edge: what is predicted, what is turned away and why."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from edge_line import SCALE_RAD, Line, a_line, write_scaling_model
from frame_publisher import pattern

from iocs.client import ClientError
from pvdb import Severity, edge

TYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8")
CODECS = ("", "lz4", "bslz4", "blosc", "zlib", "lz4hdf5", "bslz4hdf5")
BAD = {
    "jpeg": ({"kind": "compressed"}, "compressed by jpeg"),
    "colour": ({"kind": "colour"}, "3 dimensions"),
    "three dimensions": ({"kind": "volume"}, "3 dimensions"),
    "one dimension": ({"kind": "line"}, "1 dimensions"),
    "fewer pixels than it says": ({"kind": "garbage"}, "256 pixels for 99 x 99"),
    "no rows": ({"kind": "flat"}, "a frame without any"),
    "no pixels": ({"kind": "empty"}, "0 pixels for 16 x 16"),
    "another size": ({"side_px": 17}, "does not fit"),
    "nothing but NaN": ({"kind": "nan"}, "no finite number"),
    "colours in two dimensions": ({"kind": "colour mode"}, "ColorMode 2"),
}


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with a_line(tmp_path_factory.mktemp("frames")) as line:
        yield line


@pytest.fixture
def line(started: Line) -> Line:
    started.begin()
    return started


def test_every_type_and_codec_is_predicted_pixel_by_pixel(line: Line) -> None:
    sent = {}
    for dtype in TYPES:
        for codec in CODECS:
            sent[len(sent) + 1] = dtype, codec
            line.sent(1, first=len(sent), dtype=dtype, codec=codec, counts=None)
    line.balanced(len(sent))
    found = line.phase.take(len(sent))
    assert [frame.unique_id for frame in found] == list(sent)
    for frame in found:
        expected = pattern(frame.unique_id, 16, "f4") * SCALE_RAD
        np.testing.assert_allclose(frame.array, expected, rtol=1e-5, err_msg=str(sent[frame.unique_id]))
    assert line.value(edge.FRAMES_REJECTED) == 0 == line.value(edge.FRAMES_MISSED)


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_frame_for_the_model_is_rejected_with_its_reason(line: Line, bad: str) -> None:
    how, reason = BAD[bad]
    line.sent(2, first=1, scan_id="bad")
    line.sent(1, first=3, scan_id="bad", **how)
    line.sent(2, first=4, scan_id="bad")
    line.balanced(5)
    line.until(lambda: reason in line.value(edge.REJECTED_BECAUSE), f"{reason} is the reason")
    assert line.value(edge.FRAMES_REJECTED) == 1 == line.value(edge.SCAN_REJECTED)
    assert [frame.unique_id for frame in line.phase.take(4)] == [1, 2, 4, 5]
    assert line.value(edge.FRAMES_MISSED) == 0, "a frame that came and was turned away was not missed as well"
    for pv in (edge.FRAMES_REJECTED, edge.SCAN_REJECTED):
        line.shows_alarm(pv, Severity.MAJOR)
    line.sent(2, first=10, scan_id="clean")
    line.shows(edge.SCAN_REJECTED, 0)
    assert line.value(edge.FRAMES_REJECTED) == 1
    for pv in (edge.FRAMES_REJECTED, edge.SCAN_REJECTED):
        line.shows_alarm(pv, Severity.NO_ALARM)


def test_a_bad_frame_before_any_good_one_raises_the_alarm_too(line: Line) -> None:
    line.sent(1, kind="compressed")
    line.shows(edge.FRAMES_REJECTED, 1)
    line.shows_alarm(edge.FRAMES_REJECTED, Severity.MAJOR)
    line.sent(1, first=2, scan_id="first")
    line.balanced(2)
    assert line.value(edge.SCAN_REJECTED) == 1, "what came before the first frame is of its scan"
    line.sent(1, first=3, scan_id="clean")
    line.shows_alarm(edge.FRAMES_REJECTED, Severity.NO_ALARM)


def test_pixels_that_are_not_finite_leave_the_frame_to_the_others(line: Line) -> None:
    line.sent(1, dtype="f8", counts=1e300)  # more than the model's float32 holds: no good pixel, no counts
    line.sent(1, first=2, dtype="u2", counts=65535)  # the mark of a gap
    line.shows(edge.FRAMES_EMPTY, 2)
    line.balanced(2)


def test_empty_frames_are_neither_predicted_nor_stitched(line: Line) -> None:
    line.sent(4, counts=0)
    line.sent(3, first=5, counts=None)
    line.sent(2, first=8, counts=0)
    line.balanced(9)
    assert (line.value(edge.FRAMES_EMPTY), line.value(edge.FRAMES_OUT)) == (6, 3)
    assert [frame.unique_id for frame in line.phase.take(3)] == [5, 6, 7]
    line.stitched.until(
        lambda maps: (maps[-1].unique_id, maps[-1].attributes["ScanId"]) == (3, line.scan), "a map of three"
    )


def test_min_counts_acts_at_once(line: Line) -> None:
    for least, (empty, out) in ((16 * 16 * 9 + 1, (3, 0)), (16 * 16 * 9, (0, 3))):
        line.client.put(edge.MIN_COUNTS, least)
        line.reset()  # the stream process has taken what was put before it
        line.sent(3, counts=9)
        line.balanced(3)
        assert (line.value(edge.FRAMES_EMPTY), line.value(edge.FRAMES_OUT)) == (empty, out)


def test_a_batch_that_never_fills_is_published(line: Line) -> None:
    line.client.put(edge.MAX_WAIT, 50.0)
    line.send(163, rate_hz=1000)
    line.wait_sent()
    assert [frame.unique_id for frame in line.phase.take(163)] == list(range(1, 164))
    line.balanced(163)


def test_a_shorter_wait_and_a_smaller_batch_act_at_once(line: Line) -> None:
    line.client.put(edge.BATCH_SIZE, 256)
    line.client.put(edge.MAX_WAIT, 1000.0)
    line.sent(5)
    line.client.put(edge.BATCH_SIZE, 5)
    assert [frame.unique_id for frame in line.phase.take(5)] == [1, 2, 3, 4, 5]
    line.client.put(edge.BATCH_SIZE, 256)
    line.sent(3, first=6)
    line.client.put(edge.MAX_WAIT, 0.0)
    assert [frame.unique_id for frame in line.phase.take(8)][5:] == [6, 7, 8]
    line.balanced(8)


def test_settings_beyond_their_limits_are_refused(line: Line) -> None:
    for pv, value in ((edge.BATCH_SIZE, 0), (edge.BATCH_SIZE, 257), (edge.MAX_WAIT, -1.0), (edge.MIN_COUNTS, -1.0)):
        with pytest.raises(ClientError):
            line.client.put(pv, value)
        assert line.client.get(pv) == pv.initial


def test_every_frame_of_any_mixture_is_accounted_for(line: Line) -> None:
    mixture: list[dict[str, Any]] = [
        {}, {"counts": 0}, {"kind": "colour"}, {"codec": "bslz4", "counts": None}, {"side_px": 8}, {"kind": "nan"},
        {"dtype": "f8", "counts": None}, {"kind": "empty"}, {"kind": "compressed"}, {"codec": "zlib", "counts": 0},
    ]  # fmt: skip
    rounds, each = 3, 7
    for number in range(rounds):
        for index, how in enumerate(mixture):
            line.send(each, first=1 + (number * len(mixture) + index) * each, rate_hz=2000, **how)
    line.wait_sent()
    line.balanced(rounds * each * len(mixture))
    assert line.value(edge.FRAMES_OUT) == rounds * each * 3
    assert line.value(edge.FRAMES_EMPTY) == rounds * each * 2
    assert line.value(edge.FRAMES_REJECTED) == rounds * each * 5
    assert line.value(edge.FRAMES_MISSED) == 0
    ids = [frame.unique_id for frame in line.phase.take(rounds * each * 3)]
    assert ids == sorted(set(ids))


def test_a_reset_while_frames_stream_keeps_the_account(line: Line) -> None:
    line.send(700, rate_hz=700, counts=None)
    for seen in (50, 200, 400):
        line.phase.until(lambda found, seen=seen: found[-1].unique_id >= seen, f"frame {seen}")
        line.client.put(edge.RESET, 1)
    line.wait_sent()
    line.sent(50, first=701, counts=None)  # the last reset may have come after all others
    assert [frame.unique_id for frame in line.phase.take(750)] == list(range(1, 751))
    line.until(
        lambda: 50 <= line.value(edge.FRAMES_IN) == line.value(edge.FRAMES_OUT) <= 350, "all since the last reset"
    )
    assert line.client.get(edge.FRAMES_MISSED) == 0


def test_gaps_are_missed_and_the_alarm_goes_with_the_next_scan(line: Line) -> None:
    line.sent(2, scan_id="gap")
    line.sent(2, first=8, scan_id="gap")
    line.shows(edge.FRAMES_MISSED, 5)
    for pv in (edge.FRAMES_MISSED, edge.SCAN_MISSED):
        line.shows_alarm(pv, Severity.MAJOR)
    line.sent(1, first=10, scan_id="clean")
    line.shows(edge.SCAN_MISSED, 0)
    assert line.value(edge.FRAMES_MISSED) == 5
    line.shows_alarm(edge.FRAMES_MISSED, Severity.NO_ALARM)
    line.balanced(5)


def test_frames_while_disabled_pass_and_are_not_missed(line: Line) -> None:
    line.sent(2)
    line.balanced(2)
    line.client.put(edge.ENABLE, 0)
    line.shows(edge.STATE, "Disabled")
    write_scaling_model(line.folder, 2)
    for version in (2, 1):
        line.announce(version, None)
        line.shows(edge.MODEL, version)  # the stream process has taken what was put before it
    line.sent(3, first=3)
    line.client.put(edge.ENABLE, 1)
    last = line.send_until_seen(6)
    seen = [frame.unique_id for frame in line.phase.take(3)]
    assert seen == [1, 2, *range(last - len(seen) + 3, last + 1)] and seen[2] >= 6
    line.balanced(len(seen))
    assert line.value(edge.FRAMES_MISSED) == 0


def test_a_clock_ahead_of_ours_is_an_alarm_and_one_far_off_is_not_used(line: Line) -> None:
    line.sent(3, ahead_s=5.0)
    line.until(lambda: line.value(edge.LATENCY_MEDIAN) < 0, "the latency is negative")
    line.shows_alarm(edge.LATENCY_MEDIAN, Severity.MAJOR)
    assert line.value(edge.LATENCY_FROM) == "Frame time stamp"
    line.begin()
    line.sent(3, ahead_s=60.0)
    line.shows(edge.LATENCY_FROM, "Arrival")
    line.until(lambda: line.value(edge.LATENCY_MEDIAN) > 0, "the latency is positive")
    line.shows_alarm(edge.LATENCY_MEDIAN, Severity.NO_ALARM)
    line.sent(1, first=4, ahead_s=60.0)
    line.sent(1, first=5)
    line.shows(edge.LATENCY_FROM, "Frame time stamp")
