"""template_quantizer: four bits a value in the layout of GGML's q4_0, each block's scale fitted by least squares.

byte  0  1 | 2 … 17
      d    | q[0] and q[16], q[1] and q[17], …, q[15] and q[31]; the first in the low half of the byte

value[i] = d · (q[i] - 8)
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.plugins import (
    Float32,
    Layout,
    Packed,
    QuantizeError,
    Quantizer,
    checked_packed,
    checked_rows,
    column_weights,
    hookimpl,
    packed_size,
)

__all__ = ["TemplateQuantizer", "conform_quantizers"]

CONFORM_PLUGIN_API = 1

_BLOCK = 32
_BYTES = 18


@dataclass(frozen=True, slots=True)
class TemplateQuantizer:
    """Reads and writes GGML type 2 (q4_0), so that any runtime that knows q4_0 reads what it wrote."""

    name: ClassVar[str] = "template_quantizer"
    layout: ClassVar[Layout] = Layout(ggml_type=2, block_size=_BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        columns = column_weights(self.name, importance, rows.shape[1])
        blocks = rows.reshape(-1, _BLOCK)
        weights = np.broadcast_to(columns, rows.shape).reshape(-1, _BLOCK)
        levels = _levels(blocks, _extreme(blocks) / np.float32(-8))
        scale = _half(_fitted(blocks, levels, weights))
        levels = _levels(blocks, scale.astype(np.float32))
        codes = (levels + 8).astype(np.uint8)
        packed = np.empty((len(blocks), _BYTES), np.uint8)
        packed[:, :2] = scale.view(np.uint8)
        packed[:, 2:] = codes[:, :16] | codes[:, 16:] << 4
        return packed.ravel()

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _BYTES)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        codes = np.concatenate([blocks[:, 2:] & 15, blocks[:, 2:] >> 4], axis=1)
        values: Float32 = (codes.astype(np.float32) - np.float32(8)) * scale
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return [TemplateQuantizer()]


def _extreme(blocks: Float32) -> Float32:
    """The value of the largest magnitude in each block, (n, 1), with its sign: it becomes level -8."""
    places = np.abs(blocks).argmax(axis=1, keepdims=True)
    return np.take_along_axis(blocks, places, axis=1)


def _levels(blocks: Float32, scale: Float32) -> Float32:
    """The nearest level of each value, from -8 to 7; 0 throughout a block whose scale is 0."""
    quotients = np.divide(blocks, scale, out=np.zeros_like(blocks), where=scale != 0)
    levels: Float32 = np.clip(np.rint(quotients), -8, 7)
    return levels


def _fitted(blocks: Float32, levels: Float32, weights: Float32) -> Float32:
    """The scale of the least weighted squared error for these levels; all weigh alike where the weights say nothing."""
    silent = ~((weights > 0) & (levels != 0)).any(axis=1, keepdims=True)
    weights = np.where(silent, np.float32(1), weights)
    # In float64: the squares of the largest and smallest float32 values are not float32 values.
    square = (weights * np.square(levels, dtype=np.float64)).sum(axis=1, keepdims=True)
    product = (weights * np.multiply(levels, blocks, dtype=np.float64)).sum(axis=1, keepdims=True)
    scale: Float32 = np.divide(product, square, out=np.zeros_like(square), where=square > 0).astype(np.float32)
    return scale


def _half(scale: Float32) -> "np.ndarray[tuple[int, ...], np.dtype[np.float16]]":
    if scale.size and np.abs(scale).max() >= 65520:
        raise QuantizeError(f"a scale of {np.abs(scale).max():g} is infinite in half precision")
    return scale.astype("<f2")
