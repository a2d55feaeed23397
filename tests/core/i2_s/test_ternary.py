import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from conform.core.errors import QuantizeError
from conform.core.i2_s.ternary import absmean_scale, effective, exact_scale, stored_ternary, ternarise

MATRICES = arrays(np.float32, (4, 6), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def f32(*values):
    return np.array(values, np.float32)


def test_the_scale_is_the_mean_magnitude():
    assert absmean_scale(f32(1, -2, 3, 0)) == np.float32(1.5)


def test_the_scale_never_falls_below_its_floor():
    assert absmean_scale(np.zeros((2, 2), np.float32)) == np.float32(1e-5)
    assert absmean_scale(np.full((2, 2), 1e-9, np.float32)) == np.float32(1e-5)


def test_the_mean_is_accumulated_in_double_precision():
    # In single precision 2**24 + 1 is lost.
    values = np.ones(1 << 16, np.float32)
    values[0] = 2**24
    assert absmean_scale(values) == np.float32((2**24 + 65535) / 65536)


def test_halves_are_rounded_to_even():
    values = f32(2, 0.5, -0.5, 1.5, -1.5, 0)
    scale = absmean_scale(values)
    assert scale == 1
    codes, _ = ternarise(values)
    assert codes.tolist() == [1, 0, 0, 1, -1, 0]


def test_a_matrix_that_is_ternary_already_is_scaled_by_its_mean_like_any_other():
    values = f32(0.5, 0, -0.5, 0)
    codes, scale = ternarise(values)
    assert scale == np.float32(0.25)
    assert codes.tolist() == [1, 0, -1, 0]
    assert effective(values).tolist() == [0.25, 0, -0.25, 0]


def test_stored_ternary_values_are_taken_apart_as_they_are():
    codes, scale = stored_ternary(f32(0.3, 0, -0.3, 0))
    assert scale == np.float32(0.3)
    assert codes.tolist() == [1, 0, -1, 0]
    codes, scale = stored_ternary(f32(0, 0))
    assert scale > 0
    assert codes.tolist() == [0, 0]


@pytest.mark.parametrize("values", [(2, -2.0000002), (1, 0.5, 0), (np.nan, 1), (np.inf, 0)])
def test_other_values_are_not_stored_ternary(values):
    with pytest.raises(QuantizeError, match="expected only -c, 0 and c"):
        stored_ternary(f32(*values))


def test_exactly_ternary_is_told_from_nearly_so():
    assert exact_scale(f32(2, -2, 0)) == 2
    assert exact_scale(f32(1e-40, 0)) == np.float32(1e-40)
    assert exact_scale(f32(2, -2.0000002)) is None
    assert exact_scale(f32(0, 0)) is None
    assert exact_scale(f32(np.inf, 0)) is None
    assert exact_scale(f32(np.nan, 1)) is None


@given(MATRICES)
def test_codes_are_ternary_and_effective_values_can_be_stored_as_they_are(values):
    codes, scale = ternarise(values)
    assert set(np.unique(codes)) <= {-1, 0, 1}
    assert scale > 0
    once = effective(values)
    kept, kept_scale = stored_ternary(once)
    assert np.array_equal(kept, codes)
    assert np.array_equal(kept * kept_scale, once)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(QuantizeError, match="NaN or infinite"):
        ternarise(f32(1, bad, 2))


def test_the_input_is_left_alone():
    values = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    before = values.copy()
    ternarise(values)
    effective(values)
    assert np.array_equal(values, before)
