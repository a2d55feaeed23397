"""iq2_xxs, iq2_xs, iq2_s: what their bytes mean."""

import gguf.quants
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from conform.plugins import QuantizeError
from conform.plugins.quantizers.iq2 import IQ2S, IQ2XS, IQ2XXS, conform_quantizers

TYPES = conform_quantizers()
TWO = b"\x00\x40"  # float16 2.0


def _values(quantizer, block):
    return quantizer.dequantize(np.frombuffer(block, np.uint8), (1, 256))[0]


def test_iq2_xxs_decodes_points_signs_and_scale():
    signs = 0b0000011 | 0b1000000 << 21  # group 0: values 0 and 1; group 3: value 6, and 7 to make it even
    first = bytes([1, 0, 0, 255]) + (signs | 3 << 28).to_bytes(4, "little")
    values = _values(IQ2XXS(), TWO + first + bytes(56))
    scale = 2 * (2 * 3 + 1)
    np.testing.assert_array_equal(values[:8], np.array([-5.375, -1, 1, 1, 1, 1, 1, 1]) * scale)
    np.testing.assert_array_equal(values[8:24], np.full(16, scale))
    expected = np.array([1, 3.125, 1, 1, 3.125, 5.375, -5.375, -5.375]) * scale
    np.testing.assert_array_equal(values[24:32], expected)
    np.testing.assert_array_equal(values[32:], np.full(224, 2))


def test_iq2_xs_decodes_points_signs_and_scales():
    words = (511 | 0b0000001 << 9).to_bytes(2, "little") + (1).to_bytes(2, "little") + bytes(60)
    values = _values(IQ2XS(), TWO + words + bytes([0x21]) + bytes(7))
    np.testing.assert_array_equal(values[:8], np.array([-1, 1, 1, 1, 1, 1, 1, -1]) * 5.375 * 2 * 3)
    np.testing.assert_array_equal(values[8:16], np.array([5.375, 1, 1, 1, 1, 1, 1, 1]) * 2 * 3)
    np.testing.assert_array_equal(values[16:32], np.full(16, 2 * 5))
    np.testing.assert_array_equal(values[32:], np.full(224, 2))


def test_iq2_s_decodes_points_signs_and_scales():
    low, signs = bytes([255, 0, 1]) + bytes(29), bytes([0b10000000]) + bytes(31)
    values = _values(IQ2S(), TWO + low + signs + bytes([0b11]) + bytes(7) + bytes([0x0F]) + bytes(7))
    np.testing.assert_array_equal(values[:8], np.array([1, 1, 1, 1, 1, 1, 1, -1]) * 5.375 * 2 * 31)
    np.testing.assert_array_equal(values[8:16], np.full(8, 2 * 31))
    np.testing.assert_array_equal(values[16:24], np.array([5.375, 1, 1, 1, 1, 1, 1, 1]) * 2)
    np.testing.assert_array_equal(values[24:], np.full(232, 2))


@pytest.mark.parametrize("quantizer", TYPES, ids=lambda q: q.name)
def test_sizes_are_those_of_the_gguf_package(quantizer):
    block, size = gguf.GGML_QUANT_SIZES[GGMLQuantizationType(quantizer.layout.ggml_type)]
    assert quantizer.layout.block_size == block
    assert quantizer.nbytes((3, 2 * block)) == 6 * size


@pytest.mark.parametrize("quantizer", TYPES, ids=lambda q: q.name)
@pytest.mark.parametrize("shape", [(1, 255), (2, 128), (4, 0), ()])
def test_rows_that_are_not_whole_blocks_are_refused(quantizer, shape):
    with pytest.raises(QuantizeError, match="multiple of 256"):
        quantizer.nbytes(shape)
