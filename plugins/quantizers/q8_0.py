"""q8_0: blocks of 32 values, a half-precision scale and 32 signed bytes.

byte  0  1 | 2 … 33
      d    | q[0] … q[31]        value[i] = d · q[i],  d = max |value| / 127
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size, run_rows

__all__ = ["Q8_0", "conform_quantizers"]

_BLOCK = 32
_BYTES = 34
# Blocks converted at a time: 64 KiB of values, which stay in a core's cache with their temporaries.
_PIECE = 512
# The largest magnitude whose scale, divided by 127, does not round to infinity in half precision.
_OVERFLOW = np.float32(65520.0 * 127)
# Added before truncation it rounds halves away from zero; 0.5 itself would lift 0.49999997 to 1.
_ALMOST_HALF = np.nextafter(np.float32(0.5), np.float32(0))


@dataclass(frozen=True, slots=True)
class Q8_0:  # noqa: N801 - the type's own name
    """Eight bits a value; byte for byte what ggml writes."""

    name: ClassVar[str] = "q8_0"
    layout: ClassVar[Layout] = Layout(8, _BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        return run_rows(_quantize_rows, rows, rows[:0], self.nbytes(rows.shape[1:]))

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _BYTES)
        values = blocks[:, 2:].view(np.int8).astype(np.float32)
        values *= blocks[:, :2].copy().view("<f2").astype(np.float32)
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (Q8_0(),)


def _quantize_rows(rows: Float32, _weights: Float32, out: Packed) -> None:
    values, packed = rows.reshape(-1, _BLOCK), out.reshape(-1, _BYTES)
    for start in range(0, len(values), _PIECE):
        _quantize_blocks(values[start : start + _PIECE], packed[start : start + _PIECE])


def _quantize_blocks(values: Float32, packed: Packed) -> None:
    largest = np.abs(values).max(axis=1, keepdims=True)
    if largest.max() >= _OVERFLOW:
        raise QuantizeError(f"a value of magnitude {largest.max():g} needs a scale that q8_0 can only hold as infinity")
    scale = largest / np.float32(127)
    # A scale this small has no finite inverse; in half precision it is zero, and so is the block.
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    levels = values * inverse
    levels += np.copysign(_ALMOST_HALF, levels)
    packed[:, :2] = scale.astype("<f2").view(np.uint8)
    packed[:, 2:].view(np.int8)[:] = levels.astype(np.int8)
