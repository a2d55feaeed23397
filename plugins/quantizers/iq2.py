"""iq2_xxs, iq2_xs and iq2_s: groups of eight values as one point of a grid of levels 1, 3.125 and 5.375, with signs.

    iq2_xxs  66 bytes for 256 values: d | 8 × (4 bytes of points | word of signs and scale)               2.0625 bits
    iq2_xs   74 bytes for 256 values: d | 32 × word of point and signs | 8 bytes of scales                2.3125 bits
    iq2_s    82 bytes for 256 values: d | 32 bytes of points | 32 of signs | 8 qh | 8 of scales           2.5625 bits

iq2_xxs: a word serves 32 values: bits 7k … 7k+6 are the signs of group k, bits 28-31 the scale. iq2_xs: bits 0-8 are
the point, 9-15 the signs. Seven bits of signs stand for eight: the number of minus signs is even. iq2_s: bits 2k and
2k+1 of qh's byte b are the high bits of the point of group 4b + k. The scales of iq2_xs and iq2_s serve 16 values each,
the first of two in the low half of a byte. y = d · (2 · scale + 1) · level · sign. d is half precision.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from conform.core.quantizer import Effort, Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, packed_size
from conform.plugins.quantizers.superblock import (
    BLOCK,
    Fields,
    Format,
    decode,
    encode,
    even_signs,
    half_bytes,
    half_words,
    halves,
    nibbles,
)

__all__ = ["IQ2S", "IQ2XS", "IQ2XXS", "conform_quantizers"]

_XXS, _XXS_BYTES = Format("iq2_xxs", 32, even=True), 66
_XS, _XS_BYTES = Format("iq2_xs", 16, even=True), 74
_S, _S_BYTES = Format("iq2_s", 16, even=False), 82


@dataclass(frozen=True, slots=True)
class IQ2XXS:
    """256 grid points, a scale for 32 values."""

    name: ClassVar[str] = "iq2_xxs"
    layout: ClassVar[Layout] = Layout(16, BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ2XXS":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, BLOCK, _XXS_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return encode(self.name, _XXS, self.effort, _pack_xxs, values, importance)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _XXS_BYTES)
        return decode(_XXS, _unpack_xxs, blocks).reshape(shape)


def _pack_xxs(fields: Fields) -> Packed:
    records = np.empty((len(fields.d), 8, 8), np.uint8)
    records[:, :, :4] = fields.point.reshape(-1, 8, 4)
    codes = (fields.signs & 127).astype(np.uint32).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)
    words = np.bitwise_or.reduce(codes, axis=2) | fields.scale.astype(np.uint32) << 28
    records[:, :, 4:] = words[..., None].astype("<u4").view(np.uint8)
    return np.concatenate([half_bytes(fields), records.reshape(-1, 64)], axis=1)


def _unpack_xxs(blocks: Packed) -> Fields:
    records = blocks[:, 2:].reshape(-1, 8, 8)
    words = records[:, :, 4:].copy().view("<u4")
    signs = even_signs(words >> np.arange(0, 28, 7, dtype=np.uint32)).reshape(-1, 32)
    point = records[:, :, :4].reshape(-1, 32).astype(np.uint16)
    return Fields(half_words(blocks), (words[..., 0] >> 28).astype(np.uint8), point, signs)


@dataclass(frozen=True, slots=True)
class IQ2XS:
    """512 grid points, a scale for 16 values."""

    name: ClassVar[str] = "iq2_xs"
    layout: ClassVar[Layout] = Layout(17, BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ2XS":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, BLOCK, _XS_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return encode(self.name, _XS, self.effort, _pack_xs, values, importance)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _XS_BYTES)
        return decode(_XS, _unpack_xs, blocks).reshape(shape)


def _pack_xs(fields: Fields) -> Packed:
    words = fields.point | (fields.signs & 127).astype(np.uint16) << 9
    return np.concatenate([half_bytes(fields), words.astype("<u2").view(np.uint8), halves(fields.scale)], axis=1)


def _unpack_xs(blocks: Packed) -> Fields:
    words = blocks[:, 2:66].copy().view("<u2")
    return Fields(
        half_words(blocks), nibbles(blocks[:, 66:]), words & np.uint16(511), even_signs(words >> np.uint16(9))
    )


@dataclass(frozen=True, slots=True)
class IQ2S:
    """1024 grid points, a scale for 16 values, every sign kept."""

    name: ClassVar[str] = "iq2_s"
    layout: ClassVar[Layout] = Layout(22, BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ2S":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, BLOCK, _S_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return encode(self.name, _S, self.effort, _pack_s, values, importance)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _S_BYTES)
        return decode(_S, _unpack_s, blocks).reshape(shape)


def _pack_s(fields: Fields) -> Packed:
    low = fields.point.astype(np.uint8)
    high = (fields.point >> 8).astype(np.uint8).reshape(-1, 8, 4) << np.arange(0, 8, 2, dtype=np.uint8)
    qh = np.bitwise_or.reduce(high, axis=2)
    return np.concatenate([half_bytes(fields), low, fields.signs, qh, halves(fields.scale)], axis=1)


def _unpack_s(blocks: Packed) -> Fields:
    high = blocks[:, 66:74, None] >> np.arange(0, 8, 2, dtype=np.uint8) & 3
    point = blocks[:, 2:34] | high.reshape(-1, 32).astype(np.uint16) << np.uint16(8)
    return Fields(half_words(blocks), nibbles(blocks[:, 74:]), point, blocks[:, 34:66])


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (IQ2XXS(), IQ2XS(), IQ2S())
