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
