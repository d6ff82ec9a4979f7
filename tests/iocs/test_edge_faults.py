"""The edge under faults: what is no frame, a stream process that dies or stands still, counters without bound."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pvaccess as pva
import pytest

from iocs.stream import NdFrame, decode, encode
from phasing.errors import FrameRejected


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
