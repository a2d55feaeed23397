"""A quantizer that keeps every promise and uses importance; the broken ones differ from it in one thing each."""

from typing import ClassVar

import numpy as np

from conform.plugins import Layout, QuantizeError, checked_packed, checked_rows, column_weights, packed_size

BLOCK = 32
BYTES = 36


class Sound:
    """Blocks of 32: a float32 scale and 32 signed bytes, the scale fitted to the weights."""

    name: ClassVar[str] = "sound"
    layout: ClassVar[Layout] = Layout(4242, BLOCK)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape):
        return packed_size(self.name, shape, BLOCK, BYTES)

    def quantize(self, values, importance=None):
        rows = checked_rows(self.name, values, BLOCK)
        weights = column_weights(self.name, importance, rows.shape[1])
        if rows.size and np.abs(rows).max() > 1e38:
            raise QuantizeError("a magnitude above 1e38 leaves no room for the rounding of the scale")
        return self.pack(rows, np.broadcast_to(weights, rows.shape))

    def dequantize(self, packed, shape):
        return self.unpack(checked_packed(self.name, packed, self.nbytes(shape))).reshape(shape)

    def pack(self, rows, weights):
        blocks = rows.reshape(-1, BLOCK)
        w = weights.reshape(-1, BLOCK)
        scale = self.scale(blocks)
        levels = self.levels(blocks, scale)
        # The best scale for these levels under these weights; the first one where the weights say nothing.
        square = (w * levels * levels).sum(axis=1, keepdims=True)
        fitted = np.divide((w * levels * blocks).sum(axis=1, keepdims=True), square, where=square > 0, out=scale.copy())
        return self.store(fitted, levels)

    def store(self, fitted, levels):
        packed = np.empty((len(levels), BYTES), np.uint8)
        packed[:, :4] = fitted.astype("<f4").view(np.uint8)
        packed[:, 4:] = levels.astype(np.int8).view(np.uint8)
        return packed.ravel()

    def scale(self, blocks):
        return np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)

    def levels(self, blocks, scale):
        return np.rint(np.divide(blocks, scale, where=scale > 0, out=np.zeros_like(blocks)))

    def unpack(self, packed):
        blocks = packed.reshape(-1, BYTES)
        values = blocks[:, 4:].view(np.int8).astype(np.float32)
        values *= blocks[:, :4].copy().view("<f4").astype(np.float32)
        return values
