"""iq4_nl, iq4_xs: what their bytes mean."""

import numpy as np

from conform.plugins.quantizers.iq4 import IQ4NL, IQ4XS

LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
HALF = b"\x00\x38"  # float16 0.5
TWO = b"\x00\x40"  # float16 2.0


def test_iq4_nl_decodes_low_halves_before_high_halves():
    codes = bytes(low | (15 - low) << 4 for low in range(16))
    values = IQ4NL().dequantize(np.frombuffer(HALF + codes, np.uint8), (32,))
    np.testing.assert_array_equal(values, np.array(LEVELS + LEVELS[::-1]) / 2)


def test_iq4_xs_decodes_scales_of_six_bits():
    scales = [0, 1, 15, 16, 31, 32, 33, 63]
    high = sum((scale >> 4) << (2 * block) for block, scale in enumerate(scales)).to_bytes(2, "little")
    low = bytes((scales[2 * i] & 15) | (scales[2 * i + 1] & 15) << 4 for i in range(4))
    codes = bytes([0xF0]) + bytes([0x99]) * 15
    values = IQ4XS().dequantize(np.frombuffer(TWO + high + low + 8 * codes, np.uint8), (256,)).reshape(8, 32)
    block = np.array([-127] + [13] * 15 + [113] + [13] * 15)
    np.testing.assert_array_equal(values, 2 * (np.array(scales) - 32)[:, None] * block)


def test_iq4_nl_finds_values_that_it_can_hold():
    values = np.array(LEVELS + LEVELS[::-1], np.float32)[None] * np.float32(0.375)
    packed = IQ4NL().quantize(values)
    assert packed.tobytes() == b"\x00\x36" + bytes(low | (15 - low) << 4 for low in range(16))


def test_iq4_xs_finds_values_that_it_can_hold():
    scales = np.array([-32, -20, -7, -1, 3, 11, 25, 31], np.float32)
    values = (scales[:, None] * np.array(LEVELS + LEVELS[::-1], np.float32) * np.float32(0.0625)).reshape(1, 256)
    decoded = IQ4XS().dequantize(IQ4XS().quantize(values), values.shape)
    np.testing.assert_array_equal(decoded, values)


def test_iq4_nl_scale_may_be_negative():
    values = -np.array(LEVELS + LEVELS, np.float32)[None]
    assert IQ4NL().quantize(values)[:2].tobytes() == b"\x00\xbc"
