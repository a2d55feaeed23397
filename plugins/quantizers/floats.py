"""Floats: f32, f16 and bf16, one value a block.

f32   seeeeeee efffffff ffffffff ffffffff    little-endian, as it is
f16   seeeeeff ffffffff                      rounded to nearest, halves to even; subnormals kept
bf16  seeeeeee efffffff                      the upper half of f32, rounded likewise
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size, run_rows

__all__ = ["BF16", "F16", "F32", "conform_quantizers"]

_Halves: TypeAlias = NDArray[np.uint16]
_Words: TypeAlias = NDArray[np.uint32]
# (values, out, two scratch arrays of their size) → bits of the largest magnitude
_Convert: TypeAlias = Callable[[Float32, _Halves, _Words, _Words], int]

# Values converted at a time: input, output and temporaries of one piece stay in a core's cache.
_PIECE = 1 << 16


@dataclass(frozen=True, slots=True)
class F32:
    """float32 as it is."""

    name: ClassVar[str] = "f32"
    layout: ClassVar[Layout] = Layout(0, 1)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, 1, 4)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, 1)
        return rows.astype("<f4").view(np.uint8).ravel()

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        return checked_packed(self.name, packed, self.nbytes(shape)).view("<f4").astype(np.float32).reshape(shape)


@dataclass(frozen=True, slots=True)
class F16:
    """IEEE half precision; a value that would round to infinity (65520 and above) is refused."""

    name: ClassVar[str] = "f16"
    layout: ClassVar[Layout] = Layout(1, 1)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, 1, 2)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return _convert(self.name, values, _to_half, infinity=0x7C00)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        return checked_packed(self.name, packed, self.nbytes(shape)).view("<f2").astype(np.float32).reshape(shape)


@dataclass(frozen=True, slots=True)
class BF16:
    """bfloat16; a value that would round to infinity (about 3.396e38 and above) is refused."""

    name: ClassVar[str] = "bf16"
    layout: ClassVar[Layout] = Layout(30, 1)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, 1, 2)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return _convert(self.name, values, _to_bfloat16, infinity=0x7F80)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        upper = checked_packed(self.name, packed, self.nbytes(shape)).view("<u2").astype(np.uint32)
        upper <<= 16
        return upper.view(np.float32).reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (F32(), F16(), BF16())


class _NotFiniteError(Exception):
    """A converted value is infinite or NaN."""


def _to_half(values: Float32, out: _Halves, rounded: _Words, rest: _Words) -> int:
    """Branch-free on whole vectors, so faster than numpy's own cast; gives the largest magnitude's bits."""
    np.bitwise_and(values.view(np.uint32), 0x7FFFFFFF, out=rest)
    # Below 2^-14 half precision counts in units of 2^-24, as float32 does from 0.5 to 1: adding 0.5 rounds likewise.
    subnormal = rest < 0x38800000
    np.right_shift(rest, 13, out=rounded)
    rounded &= 1
    rounded += rest
    # Half of the discarded part, and the exponent's bias changed from 127 to 15; the sum is taken modulo 2^32.
    rounded += np.uint32((0xFFF - (112 << 23)) % (1 << 32))
    rounded >>= 13
    counted = rest.view(np.float32)
    counted += np.float32(0.5)
    rest -= np.uint32(0x3F000000)
    np.copyto(rounded, rest, where=subnormal)
    largest = int(rounded.max())
    np.right_shift(values.view(np.uint32), 16, out=rest)
    rest &= 0x8000
    rounded |= rest
    np.copyto(out, rounded, casting="unsafe")
    return largest


def _to_bfloat16(values: Float32, out: _Halves, rounded: _Words, rest: _Words) -> int:
    """Gives the largest magnitude's bits."""
    bits = values.view(np.uint32)
    np.right_shift(bits, 16, out=rounded)
    rounded &= 1
    rounded += bits
    # Half of the discarded part; one more when the kept part is odd, so that an exact half goes to even.
    rounded += 0x7FFF
    rounded >>= 16
    np.copyto(out, rounded, casting="unsafe")
    return int(np.bitwise_and(rounded, 0x7FFF, out=rest).max())


def _convert(name: str, values: Float32, convert: _Convert, infinity: int) -> Packed:
    if values.dtype != np.float32:
        raise QuantizeError(f"{name} quantizes float32 values, found {values.dtype}")
    packed_size(name, values.shape, 1, 2)
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])

    def kernel(some: Float32, _weights: Float32, out: Packed) -> None:
        flat, bits = some.ravel(), out.ravel().view("<u2")
        # Allocated once: memory of this size would otherwise be returned and faulted in again for each piece.
        scratch = np.empty((2, min(_PIECE, flat.size)), np.uint32)
        for start in range(0, flat.size, _PIECE):
            piece = flat[start : start + _PIECE]
            if convert(piece, bits[start : start + _PIECE], *scratch[:, : piece.size]) >= infinity:
                raise _NotFiniteError

    try:
        return run_rows(kernel, rows, rows[:0], rows.shape[1] * 2)
    except _NotFiniteError:
        checked_rows(name, rows, 1)
        row, col = np.argwhere(np.abs(rows) == np.abs(rows).max())[0]
        raise QuantizeError(
            f"row {row}, column {col} is {rows[row, col]:g}, which {name} can only hold as infinity; use f32"
        ) from None
