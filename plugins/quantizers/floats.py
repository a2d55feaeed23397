"""Floats: f32, f16 and bf16, one value a block.

f32   seeeeeee efffffff ffffffff ffffffff    little-endian, as it is
f16   seeeeeff ffffffff                      rounded to nearest, halves to even; subnormals kept
bf16  seeeeeee efffffff                      the upper half of f32, rounded likewise
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size
from conform.plugins.quantizers.conversion import convert

__all__ = ["BF16", "F16", "F32", "conform_quantizers"]

# The smallest magnitudes that round to infinity, halves going to even.
_F16_OVERFLOW = np.float32(65520)
_BF16_OVERFLOW = np.uint32(0x7F7F8000).view(np.float32)


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
        from conform.plugins.quantizers.kernels.conversion import encode_f16

        def encode(some: Float32, out: Packed) -> np.uint32:
            return encode_f16(some.ravel(), out.ravel().view("<u2"))

        return convert(self.name, values, 1, 2, encode, _F16_OVERFLOW, "which f16 can only hold as infinity; use f32")

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from conform.plugins.quantizers.kernels.conversion import decode_f16

        halves = checked_packed(self.name, packed, self.nbytes(shape)).view("<u2")
        values = np.empty(halves.size, np.float32)
        decode_f16(halves, values)
        return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class BF16:
    """bfloat16; a value that would round to infinity (about 3.396e38 and above) is refused."""

    name: ClassVar[str] = "bf16"
    layout: ClassVar[Layout] = Layout(30, 1)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, 1, 2)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        from conform.plugins.quantizers.kernels.conversion import encode_bf16

        def encode(some: Float32, out: Packed) -> np.uint32:
            return encode_bf16(some.ravel(), out.ravel().view("<u2"))

        return convert(self.name, values, 1, 2, encode, _BF16_OVERFLOW, "which bf16 can only hold as infinity; use f32")

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from conform.plugins.quantizers.kernels.conversion import decode_bf16

        halves = checked_packed(self.name, packed, self.nbytes(shape)).view("<u2")
        values = np.empty(halves.size, np.float32)
        decode_bf16(halves, values.view(np.uint32))
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (F32(), F16(), BF16())
