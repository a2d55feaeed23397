import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conform.core.errors import QuantizeError
from conform.core.i2_s.ternary import effective, exact_scale, optimal_scale, ternarise
from conform.plugins.quantizers.i2_s import I2S, I2SArm, I2SRows

from .strategies import examples, matrices, singles, ternary_matrices

ALL = (I2S(), I2SArm(), I2SRows())
by_name = pytest.mark.parametrize("quantizer", ALL, ids=lambda q: q.name)
scales = singles(1e-30, 1e30)


def codes_of(packed):
    body = packed[:-32]
    return np.stack([body >> shift & 3 for shift in (6, 4, 2, 0)])


@by_name
@given(values=ternary_matrices(128, scales).map(lambda v: np.concatenate([v, v, v, v])))
@examples(40)
def test_ternary_matrices_are_packed_without_loss(quantizer, values):
    for rule in ("absmean", "optimal"):
        packed = quantizer.with_scale(rule).quantize(values)
        assert np.array_equal(quantizer.dequantize(packed, values.shape), values)


@by_name
@given(values=matrices(128, magnitude=1e4).map(lambda v: np.concatenate([v, v[::-1], -v, v])))
@examples(60)
def test_any_other_matrix_follows_the_absmean_rule_exactly(quantizer, values):
    packed = quantizer.quantize(values)
    expected = values if exact_scale(values) is not None else effective(values)
    assert np.array_equal(quantizer.dequantize(packed, values.shape), expected)
    assert (codes_of(packed) != 3).all()


@given(
    mantissa=st.integers(2**19, 2**20),
    exponent=st.integers(-30, 0),
    steps=hnp.arrays(np.int8, 64, elements=st.integers(-3, 3)),
)
@examples(60)
def test_values_beside_half_the_scale_round_as_the_quotient_does(mantissa, exponent, steps):
    scale = np.float32(mantissa * 2.0**exponent)
    values = np.concatenate([np.full(128, scale / 2), np.full(128, scale * 3 / 2)]).astype(np.float32)[None]
    # Some units in the last place above and as many below half of the scale: the mean magnitude is the scale itself.
    values.view(np.int32)[0, :128] += np.concatenate([steps, -steps])
    values[0, 32:96] *= -1
    codes, found = ternarise(values)
    assert abs(found - scale) <= np.spacing(scale)
    assert np.array_equal(I2S().dequantize(I2S().quantize(values), values.shape), codes * found)


def test_exactly_half_the_scale_rounds_to_zero():
    values = np.repeat(np.array([[0.5, -0.5, 1.5, -1.5]], np.float32), 32, axis=1)
    decoded = I2S().dequantize(I2S().quantize(values), values.shape)
    assert np.array_equal(decoded, np.repeat(np.array([[0, 0, 1, -1]], np.float32), 32, axis=1))


def one_hot(place, cols=128, rows=1):
    values = np.zeros((rows, cols), np.float32)
    values.ravel()[place] = 1
    return values


@pytest.mark.parametrize(
    ("quantizer", "rows", "place", "byte", "expected"),
    [
        (I2S(), 1, 1, 1, 0x95),
        (I2S(), 1, 33, 1, 0x65),
        (I2S(), 1, 65, 1, 0x59),
        (I2S(), 1, 97, 1, 0x56),
        (I2S(), 2, 128, 32, 0x95),
        (I2SArm(), 1, 1, 1, 0x95),
        (I2SArm(), 1, 17, 1, 0x65),
        (I2SArm(), 1, 63, 15, 0x56),
        (I2SArm(), 1, 64, 16, 0x95),
        (I2SRows(), 4, 1, 1, 0x95),
        (I2SRows(), 4, 128, 0, 0x65),
        (I2SRows(), 4, 511, 127, 0x56),
        (I2SRows(), 8, 512, 128, 0x95),
    ],
)
def test_golden_layout(quantizer, rows, place, byte, expected):
    packed = quantizer.quantize(one_hot(place, rows=rows))
    body = np.full(rows * 32, 0x55, np.uint8)
    body[byte] = expected
    assert packed.tobytes() == body.tobytes() + bytes.fromhex("0000803f") + bytes(28)


@by_name
def test_size_is_a_quarter_byte_a_value_and_a_tail(quantizer):
    assert quantizer.nbytes((8, 256)) == 8 * 256 // 4 + 32


def test_only_the_first_float_of_the_tail_is_read():
    packed = I2S().quantize(one_hot(3) * np.float32(0.5))
    packed[-32:] = np.tile(packed[-32:-28], 8)
    assert np.array_equal(I2S().dequantize(packed, (1, 128)), one_hot(3) * np.float32(0.5))


@by_name
def test_zero_matrices_stay_zero(quantizer):
    for rule in ("absmean", "optimal"):
        packed = quantizer.with_scale(rule).quantize(np.zeros((4, 128), np.float32))
        assert not quantizer.dequantize(packed, (4, 128)).any()


@by_name
def test_code_3_is_refused_with_its_place(quantizer):
    packed = quantizer.quantize(np.zeros((4, 128), np.float32))
    packed[7] = 0x5D
    with pytest.raises(QuantizeError, match=r"byte 7 is 0x5d: code 3"):
        quantizer.dequantize(packed, (4, 128))


@pytest.mark.parametrize(
    ("quantizer", "shape"),
    [(I2S(), (4, 64)), (I2S(), (2, 130)), (I2SArm(), (4, 96)), (I2SRows(), (6, 128)), (I2S(), ())],
)
def test_shapes_that_do_not_fit_are_refused(quantizer, shape):
    with pytest.raises(QuantizeError, match=f"multiple of .*, which {quantizer.name} needs"):
        quantizer.nbytes(shape)


@by_name
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(quantizer, value):
    values = np.ones((4, 128), np.float32)
    values[3, 100] = value
    with pytest.raises(QuantizeError, match="row 3, column 100"):
        quantizer.quantize(values)


def test_a_rule_that_does_not_exist_is_refused():
    with pytest.raises(QuantizeError, match="absmax: no such ternary scale; there are absmean and optimal"):
        I2S().with_scale("absmax")


@given(matrices(128, rows=1, magnitude=100, smallest=1e-3))
@examples(40)
def test_the_optimal_scale_is_no_worse_than_any_threshold(values):
    packed = I2S("optimal").quantize(values)
    ours = squared_error(I2S().dequantize(packed, values.shape), values)
    magnitudes = np.abs(values.astype(np.float64))
    for threshold in np.unique(magnitudes):
        kept = magnitudes >= threshold
        scale = magnitudes[kept].mean()
        best = ((magnitudes - np.where(kept, scale, 0)) ** 2).sum()
        assert ours <= best * (1 + 1e-6) + 1e-9
    assert ours <= squared_error(effective(values), values) * (1 + 1e-6) + 1e-9


def squared_error(decoded, values):
    return float(((decoded.astype(np.float64) - values) ** 2).sum())


def test_the_optimal_scale_of_a_known_case():
    # Keeping {4, 3}: 7²/2 = 24.5; {4}: 16; {4, 3, 1}: 64/3 = 21.3.
    assert optimal_scale(np.array([[1, -4, 3, 0]], np.float32)) == np.float32(3.5)
