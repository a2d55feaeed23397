"""iq3_xxs, iq3_s: what their bytes mean."""

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from conform.plugins import QuantizeError
from conform.plugins.quantizers.iq3 import IQ3S, IQ3XXS, conform_quantizers

TYPES = conform_quantizers()
TWO = b"\x00\x40"  # float16 2.0


def _values(quantizer, block):
    return quantizer.dequantize(np.frombuffer(block, np.uint8), (1, 256))[0]


def test_iq3_xxs_decodes_points_signs_and_scale():
    points = bytes([255, 1]) + bytes(62)
    signs = 0b0010001 | 0b1000000 << 7  # values 0 and 4; then 14, and 15 to make it even
    values = _values(IQ3XXS(), TWO + points + (signs | 2 << 28).to_bytes(4, "little") + bytes(28))
    scale = 2 * (2 * 2 + 1)
    np.testing.assert_array_equal(values[:8], np.array([-1, 7, 13, 15.5, -5, 1, 1, 1]) * scale)
    np.testing.assert_array_equal(values[8:16], np.array([1, 1, 1, 1, 1, 1, -1, -1]) * scale)
    np.testing.assert_array_equal(values[16:32], np.full(16, scale))
    np.testing.assert_array_equal(values[32:], np.full(224, 2))


def test_iq3_s_decodes_points_signs_and_scales():
    low, qh = bytes([255, 255, 1]) + bytes(61), bytes([0b10]) + bytes(7)
    signs = bytes([0b10000001]) + bytes(31)
    values = _values(IQ3S(), TWO + low + qh + signs + bytes([0x10, 0, 0, 0xF0]))
    np.testing.assert_array_equal(values[:4], np.array([-1, 5, 9, 5]) * 2)
    np.testing.assert_array_equal(values[4:8], np.array([1, 1, 15, -15]) * 2)
    np.testing.assert_array_equal(values[8:12], np.array([3, 1, 1, 1]) * 2)
    np.testing.assert_array_equal(values[12:32], np.full(20, 2))
    np.testing.assert_array_equal(values[32:64], np.full(32, 2 * 3))
    np.testing.assert_array_equal(values[64:224], np.full(160, 2))
    np.testing.assert_array_equal(values[224:], np.full(32, 2 * 31))


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
