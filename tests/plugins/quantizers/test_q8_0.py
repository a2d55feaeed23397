import gguf
import numpy as np
import pytest
from hypothesis import given

from conform.core.errors import QuantizeError
from conform.plugins.quantizers.q8_0 import Q8_0

from .strategies import examples, matrices

Q8 = Q8_0()
THEIRS = gguf.GGMLQuantizationType.Q8_0


# Below 1e-30 gguf divides by a scale whose inverse is not finite.
@given(matrices(32, smallest=1e-30, magnitude=8e6))
@examples(60)
def test_bytes_and_values_equal_those_of_gguf(values):
    packed = Q8.quantize(values)
    theirs = gguf.quants.quantize(values, THEIRS)
    assert packed.tobytes() == theirs.tobytes()
    assert Q8.dequantize(packed, values.shape).tobytes() == gguf.quants.dequantize(theirs, THEIRS).tobytes()


def test_any_bytes_decode_as_gguf_decodes_them():
    packed = np.random.default_rng(1).integers(0, 256, (64, 34), np.uint8)
    packed[:, 1] &= 0x7B  # a scale that is not NaN
    assert Q8.dequantize(packed.ravel(), (64, 32)).tobytes() == gguf.quants.dequantize(packed, THEIRS).tobytes()


def test_golden_block():
    values = np.zeros(32, np.float32)
    values[:6] = [127, -127, 0.5, -0.5, 1.5, 0.49999997]
    assert Q8.quantize(values).tobytes() == bytes.fromhex("003c 7f 81 01 ff 02 00" + "00" * 26)


@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-38, 1e-20])
def test_denormal_blocks_decode_to_zero(magnitude):
    values = np.full(32, magnitude, np.float32)
    assert not Q8.dequantize(Q8.quantize(values), (32,)).any()


@pytest.mark.filterwarnings("error")  # what an infinite level is cast to differs between machines
@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 2e-37])
def test_a_block_whose_scale_has_no_finite_inverse_is_all_zero_bytes(magnitude):
    assert not Q8.quantize(np.full(32, magnitude, np.float32)).any()


def test_the_error_is_at_most_half_a_step_and_the_rounding_of_the_scale():
    values = np.random.default_rng(2).standard_normal((8, 64)).astype(np.float32)
    error = np.abs(Q8.dequantize(Q8.quantize(values), values.shape) - values).reshape(-1, 32)
    largest = np.abs(values).reshape(-1, 32).max(axis=1, keepdims=True)
    assert (error <= largest / 127 * 0.51 + largest * 2**-11).all()


def test_a_scale_that_overflows_is_refused():
    values = np.full((1, 32), 65520 * 127, np.float32)
    with pytest.raises(QuantizeError, match="infinity"):
        Q8.quantize(values)
    assert np.isfinite(Q8.dequantize(Q8.quantize(values * np.float32(0.999)), (1, 32))).all()


@pytest.mark.parametrize("shape", [(33,), (2, 31), (0,), (), (32, 0)])
def test_rows_that_are_not_whole_blocks_are_refused(shape):
    with pytest.raises(QuantizeError, match="not a multiple of 32, which q8_0 needs"):
        Q8.nbytes(shape)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(value):
    values = np.zeros((2, 32), np.float32)
    values[1, 31] = value
    with pytest.raises(QuantizeError, match="row 1, column 31"):
        Q8.quantize(values)
