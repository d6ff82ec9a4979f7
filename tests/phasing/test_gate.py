import math

import pytest

from phasing.gate import GateMode, judge
from phasing.rounds import ScanLoss


@pytest.mark.parametrize(
    ("candidate", "incumbent", "mode", "margin", "accepted"),
    [
        (0.5, 0.6, GateMode.BETTER_ONLY, 0.0, True),
        (0.6, 0.6, GateMode.BETTER_ONLY, 0.0, True),
        (0.61, 0.6, GateMode.BETTER_ONLY, 0.0, False),
        (0.58, 0.6, GateMode.BETTER_ONLY, 0.05, False),
        (0.56, 0.6, GateMode.BETTER_ONLY, 0.05, True),
        (0.9, None, GateMode.BETTER_ONLY, 0.0, True),
        (0.9, math.nan, GateMode.BETTER_ONLY, 0.0, True),
        (0.9, 0.6, GateMode.ALWAYS, 0.0, True),
        (math.nan, 0.6, GateMode.ALWAYS, 0.0, False),
        (math.inf, None, GateMode.BETTER_ONLY, 0.0, False),
        (None, 0.6, GateMode.BETTER_ONLY, 0.0, False),
        (None, None, GateMode.ALWAYS, 0.0, False),
        (0.1, 0.6, GateMode.MANUAL, 0.0, False),
    ],
)
def test_lets_through_what_is_not_worse(
    candidate: float | None, incumbent: float | None, mode: GateMode, margin: float, accepted: bool
) -> None:
    verdict = judge(candidate, incumbent, mode, margin)
    assert verdict.accepted is accepted
    assert verdict.pending is (mode is GateMode.MANUAL)


def test_the_reason_gives_both_losses() -> None:
    assert judge(0.7, 0.6).reason == "refused: validation loss 0.7000 rad, incumbent 0.6000 rad"


def test_says_on_how_many_scans_it_is_better_and_may_refuse_for_one() -> None:
    scans = [ScanLoss("a", 10, 0.2, 0.4), ScanLoss("b", 10, 0.36, 0.3), ScanLoss("c", 10, 0.1, None)]
    verdict = judge(0.28, 0.35, scan_losses=scans)
    assert verdict.accepted
    assert "better on 1 of 2 scans" in verdict.reason
    strict = judge(0.28, 0.35, scan_losses=scans, scan_margin=0.1)
    assert not strict.accepted
    assert "on scan b more than 10.0% worse" in strict.reason
    assert judge(0.28, 0.35, scan_losses=scans, scan_margin=0.25).accepted
    assert judge(0.28, 0.35, GateMode.ALWAYS, scan_losses=scans, scan_margin=0.1).accepted
