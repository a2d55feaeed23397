"""q8_0: blocks of 32 values, a half-precision scale and 32 signed bytes.

byte  0  1 | 2 … 33
      d    | q[0] … q[31]        value[i] = d · q[i],  d = max |value| / 127
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from conform.core.errors import QuantizeError
from conform.core.quantizer import Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, packed_size, run_rows

__all__ = ["Q8_0", "conform_quantizers"]

_BLOCK = 32
_BYTES = 34
# Blocks converted at a time: 256 KiB of values, which stay in a core's cache with their temporaries.
_PIECE = 2048
# The largest magnitude whose scale, divided by 127, does not round to infinity in half precision.
_OVERFLOW = np.float32(65520.0 * 127)
# Added before truncation it rounds halves away from zero; 0.5 itself would lift 0.49999997 to 1.
_ALMOST_HALF = np.nextafter(np.float32(0.5), np.float32(0)).view(np.uint32)
_SIGN = np.uint32(1 << 31)


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
    piece = min(_PIECE, len(values))
    # Allocated once: memory of this size would otherwise be returned and faulted in again for each piece.
    columns, levels = np.empty((_BLOCK, piece), np.float32), np.empty((piece, _BLOCK), np.float32)
    halves = np.empty((piece, _BLOCK), np.uint32)
    for start in range(0, len(values), _PIECE):
        some = values[start : start + _PIECE]
        inverse = _write_scales(some, columns[:, : len(some)], packed[start : start + _PIECE, :2])
        _write_levels(some, inverse, levels[: len(some)], halves[: len(some)], packed[start : start + _PIECE, 2:])


def _write_scales(values: Float32, columns: Float32, packed: Packed) -> Float32:
    """Writes the half-precision scales; the inverse of each in float32, 0 for a block of zeros."""
    # A maximum over rows of 32 values is slow; over columns it is a few vector instructions.
    np.copyto(columns, values.T)
    np.abs(columns, out=columns)
    largest = columns.max(axis=0)[:, None]
    if largest.max() >= _OVERFLOW:
        raise QuantizeError(f"a value of magnitude {largest.max():g} needs a scale that q8_0 can only hold as infinity")
    scale = largest / np.float32(127)
    packed[:] = scale.astype("<f2").view(np.uint8)
    # A scale this small has no finite inverse; in half precision it is zero, and so is the block.
    with np.errstate(divide="ignore", over="ignore"):
        inverse: Float32 = np.float32(1) / scale
    inverse[~np.isfinite(inverse)] = 0
    return inverse


def _write_levels(
    values: Float32, inverse: Float32, levels: Float32, halves: NDArray[np.uint32], packed: Packed
) -> None:
    """Writes round(value · inverse), halves away from zero."""
    np.multiply(values, inverse, out=levels)
    # Almost a half with the sign of each level; by its bits, since copysign is not vectorised.
    np.bitwise_and(levels.view(np.uint32), _SIGN, out=halves)
    np.bitwise_or(halves, _ALMOST_HALF, out=halves)
    np.add(levels, halves.view(np.float32), out=levels)
    # The cast truncates towards zero.
    np.copyto(packed.view(np.int8), levels, casting="unsafe")
