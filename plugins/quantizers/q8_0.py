"""q8_0: blocks of 32 values, a half-precision scale and 32 signed bytes.

byte  0  1 | 2 … 33
      d    | q[0] … q[31]        value[i] = d · q[i],  d = max |value| / 127
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, packed_size
from conform.plugins.quantizers.conversion import convert

__all__ = ["Q8_0", "conform_quantizers"]

_BLOCK = 32
_BYTES = 34
# The smallest magnitude whose scale, divided by 127, rounds to infinity in half precision.
_OVERFLOW = np.float32(65520.0 * 127)


@dataclass(frozen=True, slots=True)
class Q8_0:  # noqa: N801 - the type's own name
    """Eight bits a value; byte for byte what ggml writes."""

    name: ClassVar[str] = "q8_0"
    layout: ClassVar[Layout] = Layout(8, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        from conform.plugins.quantizers.kernels.conversion import encode_q8_0

        reason = "which needs a scale that q8_0 can only hold as infinity"
        return convert(self.name, values, _BLOCK, _BYTES, encode_q8_0, _OVERFLOW, reason)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        from conform.plugins.quantizers.kernels.conversion import decode_q8_0

        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _BYTES)
        values = np.empty((len(blocks), _BLOCK), np.float32)
        decode_q8_0(blocks, values)
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (Q8_0(),)
