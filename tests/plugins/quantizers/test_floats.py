import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conform.core.errors import QuantizeError
from conform.plugins.quantizers.floats import BF16, F16, F32

from .strategies import examples

FLOATS = (F32(), F16(), BF16())
LARGEST = {"f32": np.finfo(np.float32).max, "f16": np.float32(65504), "bf16": np.float32(3.3895313892515355e38)}


def values_up_to(largest):
    elements = st.floats(-float(largest), float(largest), width=32)
    return hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 40)), elements=elements)


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
@given(data=st.data())
@examples(60)
def test_bytes_and_values_equal_those_of_gguf(quantizer, data):
    values = data.draw(values_up_to(LARGEST[quantizer.name]))
    kind = gguf.GGMLQuantizationType(quantizer.layout.ggml_type)
    packed = quantizer.quantize(values)
    theirs = gguf.quants.quantize(values, kind)
    assert packed.tobytes() == theirs.tobytes()
    decoded = quantizer.dequantize(packed, values.shape)
    assert decoded.tobytes() == gguf.quants.dequantize(theirs, kind).astype(np.float32).tobytes()


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
@given(data=st.data())
@examples(30)
def test_what_was_decoded_is_encoded_to_the_same_bytes(quantizer, data):
    values = data.draw(values_up_to(LARGEST[quantizer.name]))
    packed = quantizer.quantize(values)
    assert quantizer.quantize(quantizer.dequantize(packed, values.shape)).tobytes() == packed.tobytes()


GOLDEN = [
    (F32(), [1.0, -2.0], "0000803f 000000c0"),
    (F16(), [1.0, -2.0, 65504.0, 65519.996], "003c 00c0 ff7b ff7b"),
    # Halves go to even: 1 + 2^-11 lies between 1 and 1 + 2^-10.
    (F16(), [1.00048828125, 1.00146484375, 2**-24, 2**-25, -0.0], "003c 023c 0100 0000 0080"),
    (BF16(), [1.0, -2.0, 1.00390625, 1.01171875, 2.0**-133, -0.0], "803f 00c0 803f 823f 0100 0080"),
]


@pytest.mark.parametrize(("quantizer", "values", "expected"), GOLDEN)
def test_golden_bytes(quantizer, values, expected):
    assert quantizer.quantize(np.array(values, np.float32)).tobytes() == bytes.fromhex(expected)


def test_bf16_rounds_every_upper_half_to_nearest_and_halves_to_even():
    upper, lower = np.meshgrid(np.arange(1 << 16), [0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    up = (lower > 0x8000) | ((lower == 0x8000) & (upper & 1 == 1))
    expected = upper + up
    finite = expected & 0x7FFF < 0x7F80
    finite &= upper & 0x7FFF < 0x7F80
    assert finite.sum() == 6 * 2 * 0x7F80 - 2 * 3  # the largest of each sign and its three lower halves are refused
    values = (upper << 16 | lower).astype(np.uint32)[finite].view(np.float32)
    np.testing.assert_array_equal(BF16().quantize(values).view("<u2"), expected[finite])


@pytest.mark.parametrize("bits", [0x7F7F8000, 0x7F7F8001, 0x7F7FFFFF, 0xFF7F8000, 0xFF7FFFFF])
def test_bf16_refuses_finite_values_that_round_to_infinity(bits):
    with pytest.raises(QuantizeError, match=r"row 0, column 1 is .* infinity"):
        BF16().quantize(np.array([0, bits, 0], np.uint32).view(np.float32))


def test_f16_rounds_like_numpy_at_and_beside_every_half_of_a_step():
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middle = ((halves[:-1] + halves[1:]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(end)) for end in (0, np.inf)]
    magnitudes = np.concatenate([halves.astype(np.float32), middle, *beside])
    values = np.concatenate([magnitudes, -magnitudes])
    np.testing.assert_array_equal(F16().quantize(values).view(np.uint16), values.astype(np.float16).view(np.uint16))


def test_f16_rounds_every_float_below_its_smallest_like_numpy():
    values = (np.arange(0x600, 0x680, dtype=np.uint32) << 19).view(np.float32)
    values = np.concatenate(
        [values, np.array([1, 0x7FFFFF, 0x800000, 0x33000000, 0x33000001], np.uint32).view(np.float32)]
    )
    np.testing.assert_array_equal(F16().quantize(values).view(np.uint16), values.astype(np.float16).view(np.uint16))


def test_every_two_bytes_decode_to_what_they_mean():
    words = np.arange(1 << 16, dtype="<u2")
    f16 = F16().dequantize(words.view(np.uint8), words.shape)
    np.testing.assert_array_equal(f16.view(np.uint32), words.view("<f2").astype(np.float32).view(np.uint32))
    bf16 = BF16().dequantize(words.view(np.uint8), words.shape)
    np.testing.assert_array_equal(bf16.view(np.uint32), words.astype(np.uint32) << 16)


@pytest.mark.parametrize(
    ("quantizer", "value"), [(F16(), 65520.0), (F16(), -1e30), (BF16(), 3.4e38), (BF16(), -3.4028e38)]
)
def test_overflow_is_refused_with_its_place(quantizer, value):
    values = np.ones((3, 5), np.float32)
    values[1, 2] = value
    with pytest.raises(QuantizeError, match=r"row 1, column 2 is .* infinity"):
        quantizer.quantize(values)


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_with_their_place(quantizer, value):
    values = np.ones((3, 5), np.float32)
    values[2, 4] = value
    with pytest.raises(QuantizeError, match=r"row 2, column 4"):
        quantizer.quantize(values)


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
def test_another_dtype_is_refused(quantizer):
    with pytest.raises(QuantizeError, match="float64"):
        quantizer.quantize(np.ones((2, 2)))


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
def test_a_size_that_does_not_fit_is_refused(quantizer):
    packed = quantizer.quantize(np.ones((2, 8), np.float32))
    for wrong in (packed[:-1], packed.reshape(2, -1), packed.view(np.int8)):
        with pytest.raises(QuantizeError, match="decodes"):
            quantizer.dequantize(wrong, (2, 8))


@pytest.mark.parametrize("quantizer", FLOATS, ids=lambda q: q.name)
def test_a_strided_view_is_read_in_its_logical_order(quantizer):
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert quantizer.quantize(values.T).tobytes() == quantizer.quantize(values.T.copy()).tobytes()
