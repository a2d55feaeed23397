"""Floats: f32, f16 and bf16, one value a block.

f32   seeeeeee efffffff ffffffff ffffffff    little-endian, as it is
f16   seeeeeff ffffffff                      rounded to nearest, halves to even; subnormals kept
bf16  seeeeeee efffffff                      the upper half of f32, rounded likewise
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size, run_rows

__all__ = ["BF16", "F16", "F32", "conform_quantizers"]

# Values converted at a time: input, output and temporaries of one piece stay in a core's cache.
_PIECE = 1 << 15


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


def _to_half(values: Float32, out: "np.ndarray[tuple[int], np.dtype[np.uint16]]") -> None:
    with np.errstate(over="ignore"):
        out.view(np.float16)[:] = values


def _to_bfloat16(values: Float32, out: "np.ndarray[tuple[int], np.dtype[np.uint16]]") -> None:
    bits = values.view(np.uint32)
    odd = bits >> 16
    odd &= 1
    odd += bits
    # Half of the discarded part; one more when the kept part is odd, so that an exact half goes to even.
    odd += 0x7FFF
    odd >>= 16
    out[:] = odd


def _convert(name: str, values: Float32, convert: Callable[..., None], infinity: int) -> Packed:
    if values.dtype != np.float32:
        raise QuantizeError(f"{name} quantizes float32 values, found {values.dtype}")
    packed_size(name, values.shape, 1, 2)
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])

    def kernel(some: Float32, _weights: Float32, out: Packed) -> None:
        flat, bits = some.ravel(), out.ravel().view(np.uint16)
        for start in range(0, flat.size, _PIECE):
            piece = bits[start : start + _PIECE]
            convert(flat[start : start + _PIECE], piece)
            if (piece & 0x7FFF).max() >= infinity:
                raise _NotFiniteError
        if np.little_endian is False:
            bits.byteswap(inplace=True)

    try:
        return run_rows(kernel, rows, rows[:0], rows.shape[1] * 2)
    except _NotFiniteError:
        checked_rows(name, rows, 1)
        row, col = np.argwhere(np.abs(rows) == np.abs(rows).max())[0]
        raise QuantizeError(
            f"row {row}, column {col} is {rows[row, col]:g}, which {name} can only hold as infinity; use f32"
        ) from None
