"""The tolerance arithmetic: max(floor, 4 × noise), at the worst position and at three positions in four."""

import numpy as np
import pytest

from conform.parity.reference.metrics import Closeness
from conform.parity.rungs.agreement import MAX_ABS_FLOOR, MOST, NMSE_FLOOR, WORST, Agreement


def closeness(*max_abs):
    figures = np.array(max_abs, dtype=np.float64)
    return Closeness(figures**2, figures)


def agreement(runtime, noise, flips=None, judged=None):
    counted = np.ones(len(runtime.nmse), dtype=bool) if judged is None else np.array(judged)
    return Agreement(runtime, noise, flips, counted)


def test_where_noise_is_small_the_floor_is_the_tolerance():
    limit = agreement(closeness(1e-5, 1e-5), closeness(1e-9, 1e-9)).max_abs(WORST)
    assert limit.tolerance == MAX_ABS_FLOOR
    assert limit.measurement("x").how == "floor; noise 1.0e-09"


def test_where_noise_is_large_four_times_the_noise_is():
    measured = agreement(closeness(1.0, 2.0), closeness(0.5, 1.0))
    assert measured.max_abs(WORST).tolerance == 4.0
    assert measured.nmse(WORST).tolerance == 4.0
    assert measured.max_abs(WORST).measurement("x").how == "4 × noise"


def test_three_in_four_do_not_see_the_worst_position():
    measured = agreement(closeness(1e-5, 1e-5, 1e-5, 9.0, 1e-5), closeness(0.0, 0.0, 0.0, 0.0, 0.0))
    assert measured.max_abs(MOST).measured == 1e-5
    assert measured.max_abs(WORST).measured == 9.0
    assert measured.worst_row == 3


def test_flips_excuse_the_worst_position_only():
    measured = agreement(closeness(1e-5, 3.0), closeness(1e-6, 1e-6), flips=closeness(1.0, 1.0))
    assert measured.max_abs(WORST).tolerance == 4.0
    assert measured.max_abs(MOST).tolerance == MAX_ABS_FLOOR
    assert measured.nmse(MOST).tolerance == NMSE_FLOOR


def test_rows_that_are_not_judged_do_not_count():
    measured = agreement(closeness(1e-5, 9.0), closeness(0.0, 9.0), judged=[True, False])
    assert measured.max_abs(WORST).measured == 1e-5
    assert measured.max_abs(WORST).tolerance == MAX_ABS_FLOOR
    assert measured.worst_row == 0


def test_no_judged_row_passes_nothing():
    limit = agreement(closeness(1e-5), closeness(0.0), judged=[False]).nmse(WORST)
    assert not limit.measurement("x").passed


@pytest.mark.parametrize(("row", "gap"), [(0, 2 * MAX_ABS_FLOOR), (1, 2 * 0.5), (2, 2 * 4.0)])
def test_a_tie_is_twice_what_was_measured_between_floor_and_tolerance(row, gap):
    measured = agreement(closeness(1e-6, 0.5, 50.0), closeness(0.0, 0.0, 1.0))
    assert measured.tie(row) == gap
