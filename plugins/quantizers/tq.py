"""tq1_0 and tq2_0: ternary super-blocks of 256 values with one half-precision scale; lossless on ternary tensors.

    tq1_0  48 bytes, five values each | 4 bytes, four values each | d     1.6875 bits a value
    tq2_0  64 bytes, four values each                             | d     2.0625 bits a value

tq1_0 reads the digits t+1 of five values as a number v in base 3, the first value most significant, and stores
ceil(256·v / 243), so that a digit is recovered by one multiplication by a power of 3: its byte, times 3, over 256.
A group of four takes 0 for the fifth digit. Byte m of a group of L holds the values m, m+L, m+2L, …; the groups are
of L = 32 (values 0 … 159), L = 16 (160 … 239) and, with four digits, L = 4 (240 … 255).

tq2_0 holds the values m, m+32, m+64, m+96 of each 128 in bits 0-1, 2-3, 4-5, 6-7 of byte m.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size, run_rows

__all__ = ["TQ1_0", "TQ2_0", "conform_quantizers"]

_BLOCK = 256
_TQ1_BYTES = 54
_TQ2_BYTES = 66
# Super-blocks converted at a time: 128 KiB of values, which stay in a core's cache with their temporaries.
_PIECE = 128
# The smallest magnitude that rounds to infinity in half precision.
_OVERFLOW = np.float32(65520)
_HALF = np.float32(0.5)
# (first value, first byte, bytes L, digits) of the three groups of a tq1_0 super-block
_TQ1_GROUPS = ((0, 0, 32, 5), (160, 32, 16, 5), (240, 48, 4, 4))


@dataclass(frozen=True, slots=True)
class TQ1_0:  # noqa: N801 - the type's own name
    """Five ternary values a byte; byte for byte what ggml writes."""

    name: ClassVar[str] = "tq1_0"
    layout: ClassVar[Layout] = Layout(34, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _TQ1_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        return run_rows(_pack_tq1, rows, rows[:0], self.nbytes(rows.shape[1:]))

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _TQ1_BYTES)
        values = np.empty((len(blocks), _BLOCK), np.float32)
        for first, byte, lanes, digits in _TQ1_GROUPS:
            # Products are kept modulo 256: what overflows are the digits already read.
            rest = blocks[:, byte : byte + lanes].copy()
            for digit in range(digits):
                start = first + digit * lanes
                values[:, start : start + lanes] = (rest.astype(np.uint16) * 3 >> 8).view(np.int16) - np.int16(1)
                rest *= 3
        return _scaled(values, blocks[:, -2:]).reshape(shape)


@dataclass(frozen=True, slots=True)
class TQ2_0:  # noqa: N801 - the type's own name
    """Four ternary values a byte; byte for byte what ggml writes."""

    name: ClassVar[str] = "tq2_0"
    layout: ClassVar[Layout] = Layout(35, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _TQ2_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        return run_rows(_pack_tq2, rows, rows[:0], self.nbytes(rows.shape[1:]))

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _TQ2_BYTES)
        codes = blocks[:, :-2].reshape(-1, 2, 32)
        values = np.empty((len(blocks), 2, 4, 32), np.float32)
        for place in range(4):
            values[:, :, place] = (codes >> 2 * place & 3).view(np.int8) - np.int8(1)
        return _scaled(values.reshape(-1, _BLOCK), blocks[:, -2:]).reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (TQ1_0(), TQ2_0())


def _scaled(levels: Float32, scales: Packed) -> Float32:
    levels *= scales.copy().view("<f2").astype(np.float32)
    return levels


def _pieces(rows: Float32, out: Packed, nbytes: int) -> Iterator[tuple[Packed, Packed]]:
    """(digits (n, 256) of 0, 1, 2; packed (n, nbytes) with the scales already written) piece by piece."""
    values, packed = rows.reshape(-1, _BLOCK), out.reshape(-1, nbytes)
    for start in range(0, len(values), _PIECE):
        piece, bytes_ = values[start : start + _PIECE], packed[start : start + _PIECE]
        scale = np.abs(piece).max(axis=1, keepdims=True)
        if scale.max() >= _OVERFLOW:
            raise QuantizeError(
                f"a value of magnitude {scale.max():g} needs a scale that is infinite in half precision"
            )
        bytes_[:, -2:] = scale.astype("<f2").view(np.uint8)
        yield _digits(piece, scale), bytes_


def _digits(values: Float32, scale: Float32) -> Packed:
    """round(value / scale) + 1, halves away from zero, by ggml's arithmetic: the inverse is rounded first."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    # A scale this small has no finite inverse; in half precision it is zero, and so is the block.
    inverse[~np.isfinite(inverse)] = 0
    levels = values * inverse
    digits = np.greater_equal(levels, _HALF).view(np.uint8)
    digits += np.greater(levels, -_HALF).view(np.uint8)
    return digits


def _pack_tq1(rows: Float32, _weights: Float32, out: Packed) -> None:
    for digits, packed in _pieces(rows, out, _TQ1_BYTES):
        for first, byte, lanes, count in _TQ1_GROUPS:
            number = np.zeros((len(digits), lanes), np.uint16)
            for digit in range(5):
                number *= 3
                if digit < count:
                    start = first + digit * lanes
                    number += digits[:, start : start + lanes]
            packed[:, byte : byte + lanes] = (number * 256 + 242) // 243


def _pack_tq2(rows: Float32, _weights: Float32, out: Packed) -> None:
    for digits, packed in _pieces(rows, out, _TQ2_BYTES):
        # Eight codes at a time: no shift carries a code into the next byte.
        words = digits.view(np.uint64).reshape(len(digits), 2, 4, 4)
        codes = words[:, :, 0] | words[:, :, 1] << 2 | words[:, :, 2] << 4 | words[:, :, 3] << 6
        packed[:, :-2] = codes.reshape(len(digits), 8).view(np.uint8)
