"""tq1_0 and tq2_0: ternary super-blocks of 256 values with one half-precision scale; lossless on ternary tensors.

    tq1_0  48 bytes, five values each | 4 bytes, four values each | d     1.6875 bits a value
    tq2_0  64 bytes, four values each                             | d     2.0625 bits a value

tq1_0 reads the digits t+1 of five values as a number v in base 3, the first value most significant, and stores
ceil(256·v / 243), so that a digit is recovered by one multiplication by a power of 3: its byte, times 3, over 256.
A group of four takes 0 for the fifth digit. Byte m of a group of L holds the values m, m+L, m+2L, …; the groups are
of L = 32 (values 0 … 159), L = 16 (160 … 239) and, with four digits, L = 4 (240 … 255).

tq2_0 holds the values m, m+32, m+64, m+96 of each 128 in bits 0-1, 2-3, 4-5, 6-7 of byte m.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, packed_size
from conform.plugins.quantizers.conversion import convert

__all__ = ["TQ1_0", "TQ2_0", "conform_quantizers"]

_BLOCK = 256
_TQ1_BYTES = 54
_TQ2_BYTES = 66
# The smallest magnitude that rounds to infinity in half precision.
_OVERFLOW = np.float32(65520)
_REASON = "which needs a scale that is infinite in half precision"


@dataclass(frozen=True, slots=True)
class TQ1_0:  # noqa: N801 - the type's own name
    """Five ternary values a byte; byte for byte what ggml writes."""

    name: ClassVar[str] = "tq1_0"
    layout: ClassVar[Layout] = Layout(34, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _TQ1_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        from conform.plugins.quantizers.kernels.conversion import encode_tq1

        return convert(self.name, values, _BLOCK, _TQ1_BYTES, encode_tq1, _OVERFLOW, _REASON)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from conform.plugins.quantizers.kernels.conversion import decode_tq1

        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _TQ1_BYTES)
        values = np.empty((len(blocks), _BLOCK), np.float32)
        decode_tq1(blocks, values)
        return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class TQ2_0:  # noqa: N801 - the type's own name
    """Four ternary values a byte; byte for byte what ggml writes."""

    name: ClassVar[str] = "tq2_0"
    layout: ClassVar[Layout] = Layout(35, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _TQ2_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        from conform.plugins.quantizers.kernels.conversion import encode_tq2

        return convert(self.name, values, _BLOCK, _TQ2_BYTES, encode_tq2, _OVERFLOW, _REASON)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from conform.plugins.quantizers.kernels.conversion import decode_tq2

        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _TQ2_BYTES)
        values = np.empty((len(blocks), _BLOCK), np.float32)
        decode_tq2(blocks, values)
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (TQ1_0(), TQ2_0())
