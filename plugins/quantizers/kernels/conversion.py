"""Conversion kernels: one pass over the values of a type that searches nothing. Import lazily: this imports numba.

All run over blocks, one after another: values (blocks, values of a block), bytes (blocks, bytes of a block).

Each encoder returns the bits, without the sign, of the largest magnitude it met: those of NaN and infinity are largest.
A loop over a block takes its length from the array: one of known length the compiler unrolls instead of vectorising it.
"""

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.kernels.compiled import half_bits, half_value, kernel, scalar

__all__ = [
    "decode_bf16",
    "decode_f16",
    "decode_i2_s",
    "decode_q8_0",
    "decode_tq1",
    "decode_tq2",
    "encode_bf16",
    "encode_f16",
    "encode_i2_s",
    "encode_q8_0",
    "encode_tq1",
    "encode_tq2",
]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_ZERO, _HALF, _ONE = np.float32(0), np.float32(0.5), np.float32(1)
_INFINITY = np.float32(np.inf)
# Added before truncation it rounds halves away from zero; 0.5 itself would lift 0.49999997 to 1.
_ALMOST_HALF = np.nextafter(_HALF, _ZERO)
_BLOCK = 256


@scalar
def _largest(bits: NDArray[np.uint32], block: int) -> np.uint32:
    largest = np.uint32(0)
    for i in range(bits.shape[1]):
        largest = max(largest, np.uint32(bits[block, i] & _MAGNITUDE))
    return largest


@scalar
def _inverse(scale: np.float32) -> np.float32:
    """1 / scale; 0 where that is not finite: in half precision such a scale is zero, and so is its block."""
    inverse = np.float32(_ONE / scale)
    return inverse if inverse < _INFINITY else _ZERO


@scalar
def _write_half(value: np.float32, out: Packed, block: int, byte: int) -> None:
    half = half_bits(value)
    out[block, byte] = half & 0xFF
    out[block, byte + 1] = half >> 8


@scalar
def _any_half_value(half: np.int64) -> np.float32:
    """The value of the bits of a float16, finite or not."""
    value = np.float32(half_value(half))
    if half & 0x7C00 == 0x7C00:
        # What means infinity and NaN was taken for the next exponent, 143 by float32's bias; there they are 255.
        value = np.int32(value.view(np.int32) + (112 << 23)).view(np.float32)
    return value


@scalar
def _read_half(packed: Packed, block: int, byte: int) -> np.float32:
    return _any_half_value(np.int64(packed[block, byte]) | np.int64(packed[block, byte + 1]) << 8)


@kernel
def encode_f16(values: Float32, out: NDArray[np.uint16]) -> np.uint32:
    """(n,) values → (n,) halves."""
    largest = np.uint32(0)
    bits = values.view(np.uint32)
    for i in range(len(values)):
        out[i] = half_bits(values[i])
        largest = max(largest, np.uint32(bits[i] & _MAGNITUDE))
    return largest


@kernel
def decode_f16(halves: NDArray[np.uint16], out: Float32) -> None:
    """(n,) halves → (n,) values, NaN and infinity included."""
    for i in range(len(halves)):
        out[i] = _any_half_value(np.int64(halves[i]))


@kernel
def encode_bf16(values: Float32, out: NDArray[np.uint16]) -> np.uint32:
    """(n,) values → (n,) upper halves of their bits, rounded."""
    largest = np.uint32(0)
    bits = values.view(np.uint32)
    for i in range(len(bits)):
        # Half of the discarded part; one more when the kept part is odd, so that an exact half goes to even.
        out[i] = (bits[i] + np.uint32(0x7FFF) + (bits[i] >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        largest = max(largest, np.uint32(bits[i] & _MAGNITUDE))
    return largest


@kernel
def decode_bf16(halves: NDArray[np.uint16], out: NDArray[np.uint32]) -> None:
    """(n,) upper halves → the bits of (n,) values."""
    for i in range(len(halves)):
        out[i] = np.uint32(halves[i]) << np.uint32(16)


@kernel
def encode_q8_0(values: Float32, out: Packed) -> np.uint32:
    """(n, 32) values → (n, 34) bytes."""
    largest = np.uint32(0)
    bits, levels = values.view(np.uint32), out.view(np.int8)
    for block in range(len(values)):
        peak = _largest(bits, block)
        largest = max(largest, peak)
        scale = np.float32(np.uint32(peak).view(np.float32) / np.float32(127))
        inverse = _inverse(scale)
        _write_half(scale, out, block, 0)
        for i in range(values.shape[1]):
            level = values[block, i] * inverse
            levels[block, i + 2] = np.int32(level + (_ALMOST_HALF if level >= _ZERO else -_ALMOST_HALF))
    return largest


@kernel
def decode_q8_0(packed: Packed, out: Float32) -> None:
    """(n, 34) bytes → (n, 32) values."""
    levels = packed.view(np.int8)
    for block in range(len(out)):
        scale = _read_half(packed, block, 0)
        for i in range(out.shape[1]):
            out[block, i] = np.float32(levels[block, i + 2]) * scale


@scalar
def _digits(values: Float32, block: int, scale: np.float32, digits: Packed) -> None:
    """round(value / scale) + 1, halves away from zero, by ggml's arithmetic: the inverse is rounded first."""
    inverse = _inverse(scale)
    for i in range(len(digits)):
        level = values[block, i] * inverse
        digits[i] = np.uint8(level >= _HALF) + np.uint8(level > -_HALF)


@scalar
def _write_base_3(digits: Packed, first: int, lanes: int, count: int, out: Packed, block: int, byte: int) -> None:
    """Bytes of the digits first + m, first + m + lanes, …; zeros stand for what is missing of five."""
    for m in range(lanes):
        number = np.uint16(0)
        for digit in range(count):
            number = np.uint16(np.uint16(number * np.uint16(3)) + np.uint16(digits[first + digit * lanes + m]))
        if count == 4:
            number = np.uint16(number * np.uint16(3))
        out[block, byte + m] = np.uint16(np.uint16(number * np.uint16(256)) + np.uint16(242)) // np.uint16(243)


@kernel
def encode_tq1(values: Float32, out: Packed) -> np.uint32:
    """(n, 256) values → (n, 54) bytes."""
    largest = np.uint32(0)
    bits = values.view(np.uint32)
    digits = np.empty(_BLOCK, np.uint8)
    for block in range(len(values)):
        peak = _largest(bits, block)
        largest = max(largest, peak)
        scale = np.uint32(peak).view(np.float32)
        _digits(values, block, scale, digits)
        _write_base_3(digits, 0, 32, 5, out, block, 0)
        _write_base_3(digits, 160, 16, 5, out, block, 32)
        _write_base_3(digits, 240, 4, 4, out, block, 48)
        _write_half(scale, out, block, 52)
    return largest


@scalar
def _read_base_3(
    packed: Packed, block: int, byte: int, lanes: int, count: int, scale: np.float32, out: Float32, first: int
) -> None:
    for m in range(lanes):
        rest = packed[block, byte + m]
        for digit in range(count):
            out[block, first + digit * lanes + m] = np.float32(np.int32(np.int32(rest) * 3 >> 8) - np.int32(1)) * scale
            # The product is kept modulo 256: what overflows are the digits already read.
            rest = np.uint8(rest * np.uint8(3))


@kernel
def decode_tq1(packed: Packed, out: Float32) -> None:
    """(n, 54) bytes → (n, 256) values."""
    for block in range(len(out)):
        scale = _read_half(packed, block, 52)
        _read_base_3(packed, block, 0, 32, 5, scale, out, 0)
        _read_base_3(packed, block, 32, 16, 5, scale, out, 160)
        _read_base_3(packed, block, 48, 4, 4, scale, out, 240)


@kernel
def encode_tq2(values: Float32, out: Packed) -> np.uint32:
    """(n, 256) values → (n, 66) bytes."""
    largest = np.uint32(0)
    bits = values.view(np.uint32)
    digits = np.empty(_BLOCK, np.uint8)
    for block in range(len(values)):
        peak = _largest(bits, block)
        largest = max(largest, peak)
        scale = np.uint32(peak).view(np.float32)
        _digits(values, block, scale, digits)
        for half in range(2):
            for m in range(32):
                i = 128 * half + m
                codes = digits[i] | digits[i + 32] << 2 | digits[i + 64] << 4 | digits[i + 96] << 6
                out[block, 32 * half + m] = codes
        _write_half(scale, out, block, 64)
    return largest


@kernel
def decode_tq2(packed: Packed, out: Float32) -> None:
    """(n, 66) bytes → (n, 256) values."""
    for block in range(len(out)):
        scale = _read_half(packed, block, 64)
        for half in range(2):
            for m in range(32):
                byte = packed[block, 32 * half + m]
                for place in range(4):
                    level = np.float32(np.int32(byte >> 2 * place & 3) - np.int32(1))
                    out[block, 128 * half + 32 * place + m] = level * scale


@kernel
def encode_i2_s(values: Float32, threshold: np.float32, out: Packed) -> None:
    """(n, 4, lanes) values → (n, lanes) bytes: the code is 2 above the threshold, 0 below its negative, else 1."""
    for row in range(len(out)):
        for m in range(out.shape[1]):
            byte = np.uint8(0)
            for place in range(4):
                value = values[row, place, m]
                byte = np.uint8(byte << 2 | np.uint8(value > threshold) + np.uint8(value >= -threshold))
            out[row, m] = byte


@kernel
def decode_i2_s(codes: Packed, scale: np.float32, out: Float32) -> None:
    """(n, lanes) bytes → (n, 4, lanes) values."""
    for row in range(len(codes)):
        for place in range(4):
            values = out[row, place]
            for m in range(len(values)):
                values[m] = np.float32(np.int32(codes[row, m] >> (6 - 2 * place) & 3) - np.int32(1)) * scale
