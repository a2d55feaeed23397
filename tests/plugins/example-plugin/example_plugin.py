"""What a third party might install: GGML's q4_1, and a key that says who made the file.

q4_1   f16 d | f16 m | 16 bytes, q[j] low and q[j + 16] high       value = d · q + m, q from 0 to 15
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from conform.plugins import (
    KeyValue,
    Layout,
    QuantizeError,
    ValueType,
    checked_packed,
    checked_rows,
    hookimpl,
    packed_size,
)

CONFORM_PLUGIN_API = 1


@dataclass(frozen=True)
class Q4_1:  # noqa: N801 - the type's own name
    name: ClassVar[str] = "q4_1"
    layout: ClassVar[Layout] = Layout(3, 32)
    needs_importance: ClassVar[bool] = False

    def nbytes(self, shape):
        return packed_size(self.name, shape, 32, 20)

    def quantize(self, values, importance=None):
        blocks = checked_rows(self.name, values, 32).reshape(-1, 32).astype(np.float64)
        low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
        if blocks.size and max(abs(low.min()), abs(high.max())) > 65504:
            raise QuantizeError("q4_1 holds values up to 65504")
        minimum = low.astype("<f2")
        scale = ((high - minimum) / 15).astype("<f2")
        steps = np.where(scale > 0, scale, 1).astype(np.float64)
        codes = np.clip(np.rint((blocks - minimum) / steps), 0, 15).astype(np.uint8)
        nibbles = codes[:, :16] | codes[:, 16:] << 4
        return np.concatenate([scale.view(np.uint8), minimum.view(np.uint8), nibbles], axis=1).ravel()

    def dequantize(self, packed, shape):
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, 20)
        scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
        minimum = blocks[:, 2:4].copy().view("<f2").astype(np.float32)
        codes = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
        return (codes * scale + minimum).astype(np.float32).reshape(shape)


@dataclass(frozen=True)
class Maker:
    name: ClassVar[str] = "example-maker"

    def keys(self, facts):
        return {"example.maker": KeyValue(ValueType.STRING, f"example-plugin, for {facts.contract.name}")}


@hookimpl
def conform_quantizers():
    return [Q4_1()]


@hookimpl
def conform_metadata_writers():
    return [Maker()]
