"""What holds for every type that searches nothing: the same bytes everywhere, one compilation, refusals."""

import hashlib
import subprocess
import sys

import gguf
import numpy as np
import pytest

from conform.plugins import QuantizeError
from conform.plugins.quantizers import floats, i2_s, q8_0, tq

TYPES = (floats.F16(), floats.BF16(), *q8_0.conform_quantizers(), *tq.conform_quantizers(), *i2_s.conform_quantizers())
by_type = pytest.mark.parametrize("quantizer", TYPES, ids=lambda q: q.name)
# The smallest magnitude that each refuses; i2_s chooses its scale from the mean.
LIMITS = {"f16": 65520, "bf16": 3.3961775e38, "q8_0": 65520 * 127, "tq1_0": 65520, "tq2_0": 65520}
by_limit = pytest.mark.parametrize("quantizer", [q for q in TYPES if q.name in LIMITS], ids=lambda q: q.name)

# SHA-256 of the packed bytes and of the decoded values of the data below.
DIGESTS = {
    "f16": "8d445d1cc7030de1",
    "bf16": "c422f06ead270cf0",
    "q8_0": "b39682e4a55cf501",
    "tq1_0": "a9fa8952f899a1f5",
    "tq2_0": "8f3a5fe8cfc0db07",
    "i2_s": "e0de93d522507ada",
    "i2_s_arm": "0d712b32fc0d16a2",
    "i2_s_rows": "4e6b36aae721deb1",
}


def _data():
    """Weights, magnitudes down to the smallest float32, and ties of every type; whole numbers, so the same anywhere."""
    rng = np.random.default_rng(3)
    weights = (rng.integers(-(2**20), 2**20, (4, 1024)) / 2**26).astype(np.float32)
    signs = rng.integers(0, 2, (4, 1024), np.uint32) << 31
    tiny = (rng.integers(1, 0x42000000, (4, 1024), np.uint32) | signs).view(np.float32)
    steps = rng.integers(-254, 255, (4, 1024)).astype(np.float32) / 2
    halves = rng.integers(0x3000, 0x4700, (4, 1024), np.uint32) << 16 | signs
    between = (halves | rng.choice(np.array([0x1000, 0x8000], np.uint32), (4, 1024))).view(np.float32)
    return np.concatenate([weights, tiny, steps, between])


def digests():
    """Of every type: what it packs and what it decodes that to."""
    found = {}
    for quantizer in TYPES:
        packed = quantizer.quantize(_data())
        decoded = quantizer.dequantize(packed, _data().shape)
        found[quantizer.name] = hashlib.sha256(packed.tobytes() + decoded.tobytes()).hexdigest()[:16]
    return found


def test_the_bytes_are_the_same_on_every_machine():
    assert digests() == DIGESTS


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_instructions_of_the_processor(with_oldest_instructions):
    with_oldest_instructions("test_conversion")


@by_type
def test_the_bytes_do_not_depend_on_threads_or_rows(quantizer, monkeypatch):
    values = _data()
    packed = {}
    for count in ("1", "2", "7"):
        monkeypatch.setenv("CONFORM_THREADS", count)
        packed[count] = quantizer.quantize(values).tobytes()
    assert len(set(packed.values())) == 1
    if not quantizer.name.startswith("i2_s"):  # whose scale is that of the whole matrix
        assert packed["1"] == b"".join(quantizer.quantize(row).tobytes() for row in values)


def test_arrays_that_may_not_be_written_need_no_other_kernel():
    """Mapped files are read-only; a kernel for them and one for the rest would be compiled twice as long."""
    from conform.plugins.quantizers.kernels import conversion as conversion_kernels

    for quantizer in TYPES:
        values = _data()
        packed = quantizer.quantize(values)
        quantizer.dequantize(packed, values.shape)
        values.flags.writeable = packed.flags.writeable = False
        assert quantizer.quantize(values).tobytes() == packed.tobytes()
        quantizer.dequantize(packed, values.shape)
    for name in conversion_kernels.__all__:
        assert len(getattr(conversion_kernels, name).signatures) == 1, name


def test_numba_is_not_imported_before_the_first_conversion():
    script = (
        "import sys; from conform.plugins.quantizers import floats, q8_0, tq, i2_s; assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@by_limit
@pytest.mark.parametrize("sign", [1, -1])
def test_the_first_magnitude_that_is_too_large_is_refused_with_its_place(quantizer, sign):
    values = np.ones((3, 512), np.float32)
    values[1, 300] = sign * np.nextafter(np.float32(LIMITS[quantizer.name]), np.float32(0))
    assert np.isfinite(quantizer.dequantize(quantizer.quantize(values), values.shape)).all()
    values[1, 300] = sign * np.float32(LIMITS[quantizer.name])
    with pytest.raises(QuantizeError, match=r"row 1, column 300 is .* infini"):
        quantizer.quantize(values)


@by_limit
def test_a_nan_is_named_before_a_value_that_is_too_large(quantizer):
    values = np.ones((3, 512), np.float32)
    values[0, 5] = 3.4e38
    values[2, 511] = np.nan
    with pytest.raises(QuantizeError, match="row 2, column 511 is nan"):
        quantizer.quantize(values)


@by_type
@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0xFF800001, 0xFFFF8000, 0xFFFFFFFF])
def test_every_kind_of_nan_is_refused(quantizer, bits):
    values = np.ones((4, 512), np.float32)
    values.view(np.uint32)[3, 7] = bits
    with pytest.raises(QuantizeError, match="row 3, column 7 is nan"):
        quantizer.quantize(values)


@pytest.mark.filterwarnings("ignore:invalid value")  # gguf multiplies zero by infinity
@pytest.mark.parametrize("quantizer", [q8_0.Q8_0(), tq.TQ1_0(), tq.TQ2_0()], ids=lambda q: q.name)
@pytest.mark.parametrize("scale", [0x7C00, 0xFC00, 0x7E01, 0x0001, 0x83FF, 0x8000])
def test_any_scale_decodes_as_gguf_decodes_it(quantizer, scale):
    size = quantizer.nbytes((quantizer.layout.block_size,))
    packed = np.random.default_rng(4).integers(0, 256, (16, size), np.uint8)
    place = slice(0, 2) if quantizer.name == "q8_0" else slice(-2, None)
    packed[:, place] = np.array([scale], "<u2").view(np.uint8)
    theirs = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType(quantizer.layout.ggml_type))
    np.testing.assert_array_equal(quantizer.dequantize(packed.ravel(), theirs.shape), theirs)


def test_every_number_of_base_3_is_stored_rounded_up():
    digits = np.arange(243)[:, None] // 3 ** np.arange(4, -1, -1) % 3
    values = np.zeros((243, 256), np.float32)
    values[:, :160:32] = values[:, 160:240:16] = digits - 1
    values[:, 240::4] = digits[:, 1:] - 1
    values[:, 1] = 1  # so that the scale is one
    packed = tq.TQ1_0().quantize(values).reshape(243, 54)
    rounded_up = -(-256 * np.arange(243) // 243)
    np.testing.assert_array_equal(packed[:, 0], rounded_up)
    np.testing.assert_array_equal(packed[:, 32], rounded_up)
    np.testing.assert_array_equal(packed[:, 48], rounded_up[np.arange(243) % 81 * 3])
    np.testing.assert_array_equal(tq.TQ1_0().dequantize(packed.ravel(), values.shape), values)
