"""The edge under faults: what is no frame, a stream process that dies or stands still, counters without bound."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pvaccess as pva
import pytest
from harness import start_ioc, wait_gone
from test_edge import Beamline, _children, _connect

from iocs.alarms import severity
from iocs.client import ClientError
from iocs.stream import NdFrame, decode, encode
from phasing.errors import FrameRejected
from pvdb import Severity, edge

PUTS = 1500
"""More settings than the pipe to a stream process holds."""


class Stalled(Beamline):
    """A beamline whose edge lets a stream process stand still for longer than any test takes."""

    constants = "import iocs.edge; iocs.edge.HUNG_S = 3600.0"


@pytest.fixture
def beamline(tmp_path: Path) -> Iterator[Beamline]:
    with closing(Stalled(tmp_path, f"F{os.getpid()}{tmp_path.name[-8:-1].replace('_', '')}:")) as made:
        made.until(lambda: made.client.value(edge.STATE) == "No model", "the edge is up")
        yield made


def _stream_process(beamline: Beamline) -> int:
    (found,) = _children(beamline.edge.process.pid)
    return found


def _stop_stream_process(beamline: Beamline) -> int:
    for pv, value in ((edge.MAX_WAIT, 5.0), (edge.ENABLE, 1), (edge.RESET, 1)):
        beamline.client.put(pv, value)  # connects: a stopped process hears searches that others then do not
    child = _stream_process(beamline)
    os.kill(child, signal.SIGSTOP)
    return child


def _put_often(beamline: Beamline) -> None:
    for number in range(PUTS):
        beamline.client.put(edge.MAX_WAIT, float(number % 100))


def _kill_stream_process(beamline: Beamline) -> None:
    """Returns in the second before another one is started."""
    with beamline.passing(edge.STATE, "Fault"):
        os.kill(_stream_process(beamline), signal.SIGKILL)


def _frame(**attributes: Any) -> Any:
    return encode(NdFrame(1, 1_700_000_000_000_000_000, np.ones((16, 16), np.uint16), attributes))


def _negative() -> Any:
    made = _frame()
    made["dimension"] = [pva.PvDimension(-16, 0, 0, 1, False)] * 2
    return made


def _scalar() -> Any:
    return pva.PvObject({"value": pva.INT}, {"value": 3})


def _other_types() -> Any:
    return pva.PvObject({"value": [pva.INT], "dimension": [pva.INT]}, {"value": [1], "dimension": [3]})


@pytest.mark.parametrize(
    ("make", "reason"), [(_negative, "negative"), (_scalar, "no NTNDArray"), (_other_types, "no NTNDArray")]
)
def test_what_is_no_image_at_all_is_rejected_with_the_reason(make: Callable[[], Any], reason: str) -> None:
    with pytest.raises(FrameRejected, match=reason):
        decode(make())


@pytest.mark.parametrize("number", [-(2**63), 2**63 - 1, 2**64 - 1])
def test_a_prediction_takes_any_whole_number_of_its_frame_along(number: int) -> None:
    made = _frame()
    made["attribute"] = [pva.NtAttribute("Pulse", pva.PvLong(number) if number < 2**63 else pva.PvULong(number))]
    frame = decode(made)
    assert frame is not None
    assert frame.attributes == {"Pulse": number}
    again = decode(encode(frame))
    assert again is not None
    assert again.attributes["Pulse"] == number


def test_a_reset_before_the_next_stream_process_is_started_has_nothing_to_wait_for(beamline: Beamline) -> None:
    _kill_stream_process(beamline)
    beamline.client.put(edge.RESET, 1)
    beamline.shows(edge.STATE, "No model")
    beamline.client.put(edge.RESET, 1)


def test_a_model_that_arrives_before_the_next_stream_process_is_started_goes_live_in_it(beamline: Beamline) -> None:
    beamline.start_models()
    beamline.go_live(1, 0.1)
    _kill_stream_process(beamline)
    beamline.announce(2, 0.2)
    beamline.shows(edge.MODEL, 2)
    beamline.shows(edge.MODEL_STATE, "Idle")
    assert beamline.client.value(edge.REFUSED) == ""


def test_a_stream_process_that_stands_still_holds_up_neither_puts_nor_the_end(beamline: Beamline) -> None:
    child = _stop_stream_process(beamline)
    _put_often(beamline)
    assert beamline.edge.stop() == 0
    wait_gone([child])
    beamline.edge = start_ioc("edge", beamline.config)


def test_what_was_set_while_the_stream_process_stood_still_holds_when_it_goes_on(beamline: Beamline) -> None:
    _connect(beamline)
    child = _stop_stream_process(beamline)
    _put_often(beamline)
    beamline.client.put(edge.ENABLE, 0)
    os.kill(child, signal.SIGCONT)
    beamline.client.put(edge.RESET, 1)
    beamline.send(1, scan_id="passed")
    beamline.shows(edge.SCAN_ID, "passed")
    assert beamline.client.get(edge.FRAMES_IN) == 0


def test_a_loss_of_more_frames_than_a_pv_can_count_stays_a_loss_with_its_alarm(beamline: Beamline) -> None:
    _connect(beamline)
    beamline.send(1, first=-(2**31), scan_id="wide")
    beamline.wait_sent()
    beamline.send(1, first=2**31 - 1, scan_id="wide")
    beamline.shows(edge.FRAMES_MISSED, 2**31 - 1)
    assert severity(edge.SCAN_MISSED, beamline.client.get(edge.FRAMES_MISSED)) is Severity.MAJOR


def test_the_frame_that_the_former_stream_process_handled_last_is_not_counted_again(beamline: Beamline) -> None:
    beamline.client.watch(edge.SCAN_STATE)
    _connect(beamline)
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.send(5)
    beamline.shows(edge.FRAMES_OUT, 5)
    beamline.shows(edge.SCAN_STATE, "Waiting")
    with beamline.passing(edge.STATE, "Fault"), beamline.passing(edge.SCAN_STATE, "Running"):
        os.kill(_stream_process(beamline), signal.SIGKILL)  # the stream sends its last frame to whoever connects
    assert beamline.client.get(edge.FRAMES_IN) == 5


def test_what_is_lost_with_a_stream_process_is_counted_and_stays_an_alarm_until_reset(beamline: Beamline) -> None:
    beamline.client.watch(edge.RESTARTS, edge.SCAN_MISSED, edge.SCAN_IN)
    _connect(beamline)
    beamline.start_models()
    beamline.go_live(1, 0.1)
    beamline.send(5, scan_id="long")
    beamline.shows(edge.FRAMES_OUT, 5)
    _kill_stream_process(beamline)
    for unique_id in count(11):  # those that nobody hears yet are missed as well
        beamline.send(1, first=unique_id, scan_id="long")
        beamline.wait_sent()
        with suppress(ClientError):
            beamline.client.wait(lambda: beamline.client.value(edge.FRAMES_OUT) > 5, "it came through", 2.0)
            break
    value = beamline.client.value
    beamline.until(lambda: value(edge.FRAMES_IN) + value(edge.FRAMES_MISSED) == unique_id, "every id is accounted for")
    assert value(edge.FRAMES_MISSED) >= 5
    beamline.until(lambda: value(edge.SCAN_IN) + value(edge.SCAN_MISSED) == unique_id, "and in its scan")
    assert beamline.client.value(edge.RESTARTS) == 1
    assert severity(edge.RESTARTS, 1) is Severity.MAJOR
    beamline.client.put(edge.RESET, 1)
    beamline.shows(edge.RESTARTS, 0)
    beamline.shows(edge.FRAMES_MISSED, 0)


def test_a_stream_process_that_stands_still_is_a_fault_until_it_goes_on(beamline: Beamline) -> None:
    child = _stop_stream_process(beamline)
    beamline.shows(edge.STATE, "Fault")
    beamline.until(lambda: "says nothing" in str(beamline.client.value(edge.MESSAGE)), "the silence is told")
    os.kill(child, signal.SIGCONT)
    beamline.shows(edge.STATE, "No model")
    beamline.until(lambda: "goes on" in str(beamline.client.value(edge.MESSAGE)), "its end is told")
