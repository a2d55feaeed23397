import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import QuantizeError
from conform.plugins.quantizers.tq import TQ1_0, TQ2_0

from .strategies import examples, matrices, ternary_matrices

BOTH = (TQ1_0(), TQ2_0())
by_name = pytest.mark.parametrize("quantizer", BOTH, ids=lambda q: q.name)
halves = st.floats(2**-24, 65504, width=16)


def theirs(quantizer):
    return gguf.GGMLQuantizationType(quantizer.layout.ggml_type)


@by_name
@given(values=matrices(256, rows=2, smallest=1e-30, magnitude=65000))
@examples(40)
def test_bytes_and_values_equal_those_of_gguf(quantizer, values):
    packed = quantizer.quantize(values)
    expected = gguf.quants.quantize(values, theirs(quantizer))
    assert packed.tobytes() == expected.tobytes()
    decoded = quantizer.dequantize(packed, values.shape)
    assert decoded.tobytes() == gguf.quants.dequantize(expected, theirs(quantizer)).tobytes()


@by_name
def test_any_bytes_decode_as_gguf_decodes_them(quantizer):
    packed = np.random.default_rng(1).integers(0, 256, (64, quantizer.nbytes((256,))), np.uint8)
    packed[:, -1] &= 0x7B  # a scale that is not NaN
    decoded = quantizer.dequantize(packed.ravel(), (64, 256))
    assert decoded.tobytes() == gguf.quants.dequantize(packed, theirs(quantizer)).tobytes()


@by_name
@given(values=ternary_matrices(256, halves))
@examples(40)
def test_ternary_tensors_are_packed_without_loss(quantizer, values):
    assert np.array_equal(quantizer.dequantize(quantizer.quantize(values), values.shape), values)


def test_golden_tq1_0():
    values = np.zeros(256, np.float32)
    values[[0, 160, 240]] = 1
    packed = TQ1_0().quantize(values)
    # All zero: digits 1 1 1 1 1 = 121, ceil(121·256/243) = 128; a leading 2: 202 → 213; four digits 1 1 1 1 and a 0:
    # 120 → 127, with a leading 2: 201 → 212.
    body = [213, *[128] * 31, 213, *[128] * 15, 212, 127, 127, 127]
    assert packed.tobytes() == bytes(body) + bytes.fromhex("003c")


def test_golden_tq2_0():
    values = np.zeros(256, np.float32)
    values[[0, 33, 66, 99, 128]] = 1
    body = [0x56, 0x59, 0x65, 0x95, *[0x55] * 28, 0x56, *[0x55] * 31]
    assert TQ2_0().quantize(values).tobytes() == bytes(body) + bytes.fromhex("003c")


@by_name
@pytest.mark.parametrize("magnitude", [1e-45, 1e-40, 1e-20, 0])
def test_blocks_below_half_precision_decode_to_zero(quantizer, magnitude):
    values = np.full(256, magnitude, np.float32)
    assert not quantizer.dequantize(quantizer.quantize(values), (256,)).any()


@by_name
def test_a_scale_that_overflows_is_refused(quantizer):
    with pytest.raises(QuantizeError, match="infinite in half precision"):
        quantizer.quantize(np.full((1, 256), 65520, np.float32))


@by_name
@pytest.mark.parametrize("shape", [(255,), (2, 128), ()])
def test_rows_that_are_not_whole_blocks_are_refused(quantizer, shape):
    with pytest.raises(QuantizeError, match="not a multiple of 256"):
        quantizer.nbytes(shape)


@by_name
def test_values_that_are_not_finite_are_refused(quantizer):
    values = np.zeros((2, 256), np.float32)
    values[1, 255] = np.nan
    with pytest.raises(QuantizeError, match="row 1, column 255 is nan"):
        quantizer.quantize(values)
