"""Positions: the transformation into the sample plane keeps lengths, and tracks say what samples in time allow."""

import math
import random

import numpy as np
import pytest

from phasing.positions import Absent, Track, to_sample_plane

LATER_S = 1e9
POINTS = [(0.0, 1.0), (1.0, 0.0), (-3.5, 0.25), (1e3, -7.0)]


@pytest.mark.parametrize("y,x", POINTS)
def test_nothing_configured_changes_nothing_but_the_unit(y, x):
    assert to_sample_plane(y, x) == (y, x)
    assert to_sample_plane(y, x, unit_m=1e-6) == (y * 1e-6, x * 1e-6)


@pytest.mark.parametrize("y,x", POINTS)
def test_swapping_twice_changes_nothing(y, x):
    assert to_sample_plane(*to_sample_plane(y, x, swap=True), swap=True) == (y, x)
    assert to_sample_plane(y, x, swap=True) == (x, y)


def test_signs_are_those_of_the_axes_after_the_swap():
    assert to_sample_plane(1.0, 2.0, swap=True, sign_y=-1) == (-2.0, 1.0)
    assert to_sample_plane(1.0, 2.0, swap=True, sign_x=-1) == (2.0, -1.0)


def test_a_turn_goes_from_x_towards_y():
    assert to_sample_plane(0.0, 1.0, rotation_deg=90.0) == pytest.approx((1.0, 0.0))
    assert to_sample_plane(1.0, 0.0, rotation_deg=90.0) == pytest.approx((0.0, -1.0))


def test_the_turn_comes_after_the_signs():
    assert to_sample_plane(0.0, 1.0, sign_x=-1, rotation_deg=90.0) == pytest.approx((-1.0, 0.0))


@pytest.mark.parametrize("y,x", POINTS)
def test_two_quarter_turns_are_both_signs(y, x):
    once = to_sample_plane(y, x, rotation_deg=90.0)
    assert to_sample_plane(*once, rotation_deg=90.0) == pytest.approx(to_sample_plane(y, x, sign_y=-1, sign_x=-1))


@pytest.mark.parametrize("y,x", POINTS)
def test_a_turn_and_back_changes_nothing(y, x):
    assert to_sample_plane(*to_sample_plane(y, x, rotation_deg=37.0), rotation_deg=-37.0) == pytest.approx((y, x))


@pytest.mark.parametrize("rotation_deg", [0.0, 12.5, 90.0, 251.0])
@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("sign_x", [1, -1])
def test_lengths_are_kept(rotation_deg, swap, sign_x):
    lengths = [math.hypot(y, x) * 1e-6 for y, x in POINTS]
    placed = [to_sample_plane(*p, unit_m=1e-6, sign_x=sign_x, swap=swap, rotation_deg=rotation_deg) for p in POINTS]
    assert [math.hypot(*p) for p in placed] == pytest.approx(lengths)


def test_arrays_are_placed_as_numbers_are():
    options = {"unit_m": 1e-9, "sign_y": -1, "swap": True, "rotation_deg": 30.0}
    y, x = np.array(POINTS).T
    arrays = np.stack(to_sample_plane(y, x, **options), axis=1)
    np.testing.assert_allclose(arrays, [to_sample_plane(*p, **options) for p in POINTS])


def track(samples, **options):
    made = Track(options.pop("tolerance_s", 0.1), **options)
    made.add([t for t, _ in samples], [v for _, v in samples])
    return made


LINE = [(0.1 * i, 2.0 * 0.1 * i) for i in range(11)]
"""value = 2 t, a sample every 0.1 s from 0 to 1."""


@pytest.mark.parametrize("hold", [False, True])
@pytest.mark.parametrize(
    "begin_s,end_s", [(0.55, 0.55), (0.5, 0.5), (0.51, 0.53), (0.05, 0.95), (0.0, 1.0), (0.3, 0.35)]
)
def test_the_mean_of_a_straight_line_is_its_middle(hold, begin_s, end_s):
    assert track(LINE, hold=hold).mean(begin_s, end_s, LATER_S) == pytest.approx(begin_s + end_s)


def test_the_mean_is_over_time_not_over_samples():
    samples = [(0.0, 0.0), (0.05, 1.0), (0.06, 1.0), (0.07, 1.0), (0.1, 1.0)]
    assert track(samples).mean(0.0, 0.1, LATER_S) == pytest.approx(0.75)


def test_the_order_of_arrival_does_not_matter_and_repeats_are_ignored():
    shuffled = LINE * 2
    random.Random(1).shuffle(shuffled)
    one, other = track(LINE), Track(0.1)
    for time_s, value in shuffled:
        other.add([time_s], [value])
    assert len(other) == len(one)
    assert other.mean(0.12, 0.78, LATER_S) == one.mean(0.12, 0.78, LATER_S)


def test_a_window_that_samples_have_not_passed_is_still_to_come():
    assert Track(0.1).mean(0.0, 0.0, LATER_S) is Absent.YET
    assert track(LINE).mean(1.05, 1.05, LATER_S) is Absent.YET
    assert track(LINE).mean(0.95, 1.05, LATER_S) is Absent.YET


def test_a_gap_that_is_too_wide_is_never_filled():
    gap = [(0.0, 0.0), (0.1, 0.2), (0.5, 1.0), (0.6, 1.2), (0.7, 1.4)]
    assert track(gap).mean(0.05, 0.05, LATER_S) == pytest.approx(0.1)
    assert track(gap).mean(0.3, 0.3, LATER_S) is Absent.FOREVER  # no sample near, on either side
    assert track(gap).mean(0.15, 0.15, LATER_S) is Absent.FOREVER  # none near behind it
    assert track(gap).mean(0.05, 0.55, LATER_S) is Absent.FOREVER  # the gap is inside the window
    assert track(gap).mean(0.1, 0.6, LATER_S) is Absent.FOREVER
    assert track(gap).mean(0.55, 0.65, LATER_S) == pytest.approx(1.2)


def test_late_samples_close_a_gap_until_the_tolerance_has_passed():
    late = track([(0.0, 0.0), (0.35, 0.7)])
    assert late.mean(0.3, 0.3, LATER_S) is Absent.YET
    late.add([0.25], [0.5])
    assert late.mean(0.3, 0.3, LATER_S) == pytest.approx(0.6)


def test_a_frame_from_before_the_first_sample_never_gets_a_position():
    assert track(LINE).mean(-0.2, -0.2, LATER_S) is Absent.FOREVER
    assert track(LINE, hold=True).mean(-0.2, -0.2, LATER_S) is Absent.FOREVER


def test_only_the_latest_samples_are_kept():
    made = Track(10.0, kept=1000)
    for i in range(5000):
        made.add([float(i)], [float(i)])
        assert len(made) <= 1000
    assert made.mean(4990.5, 4990.5, LATER_S) == pytest.approx(4990.5)
    assert made.mean(10.5, 10.5, LATER_S) is Absent.FOREVER


def test_a_motor_at_rest_holds_its_value():
    rest = track([(0.0, 1.0), (60.0, 2.0), (60.1, 3.0)], hold=True)
    assert rest.mean(59.99, 59.99, LATER_S) == 1.0
    assert rest.mean(60.05, 60.05, LATER_S) == pytest.approx(2.5)
    assert rest.mean(59.0, 60.0, LATER_S) == pytest.approx(1.0)
    assert rest.mean(100.0, 101.0, LATER_S) == 3.0
    assert rest.mean(60.05, 60.15, LATER_S) == pytest.approx((2.75 + 3.0) / 2.0)


def test_a_held_value_is_given_when_no_sample_can_come_that_would_change_it():
    held = track([(0.0, 1.0)], hold=True)
    assert held.mean(0.05, 0.05, 0.06) is Absent.YET
    assert held.mean(0.05, 0.05, 0.29) is Absent.YET
    assert held.mean(0.05, 0.05, 0.31) == 1.0
    assert held.mean(5.0, 5.0, 5.05) is Absent.YET
    assert held.mean(5.0, 5.0, 5.11) == 1.0


def test_what_is_lost_and_comes_back_unchanged_never_moved():
    lost = track([(0.0, 1.0)], hold=True)
    lost.lose(5.0)
    assert lost.mean(4.0, 4.0, LATER_S) == 1.0
    assert lost.mean(6.0, 6.0, LATER_S) is Absent.YET
    lost.found(0.0)
    assert lost.mean(6.0, 6.0, LATER_S) == 1.0


def test_what_moved_while_it_was_lost_has_no_position_meanwhile():
    lost = track([(0.0, 1.0)], hold=True)
    lost.lose(5.0)
    lost.found(8.0)
    lost.add([8.0], [2.0])
    assert lost.mean(4.0, 4.0, LATER_S) == 1.0
    assert lost.mean(6.0, 6.0, LATER_S) is Absent.FOREVER
    assert lost.mean(4.0, 9.0, LATER_S) is Absent.FOREVER
    assert lost.mean(9.0, 9.0, LATER_S) == 2.0


def test_times_of_today_keep_their_microseconds():
    begin_s = 1_795_000_000.0
    made = track([(begin_s + 0.01 * i, 0.01 * i) for i in range(11)])
    assert made.mean(begin_s + 0.055, begin_s + 0.055, LATER_S) == pytest.approx(0.055, abs=1e-6)
