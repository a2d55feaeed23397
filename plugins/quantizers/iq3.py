"""iq3_xxs and iq3_s: groups of four values as one point of a grid of eight levels, with signs.

    iq3_xxs  98 bytes for 256 values: d | 64 bytes of points | 8 × word of signs and scale                3.0625 bits
    iq3_s   110 bytes for 256 values: d | 64 bytes of points | 8 qh | 32 of signs | 4 of scales           3.4375 bits

A word of iq3_xxs serves 32 values: bits 7k … 7k+6 are the signs of the values 8k … 8k+7 (the number of minus signs in
eight is even), bits 28-31 the scale. iq3_s: bit k of qh's byte b is the high bit of the point of group 8b + k; a scale
serves 32 values, the first of two in the low half of a byte. Levels are 1, 3, …, 13 and 15.5 (iq3_xxs) or 15 (iq3_s).
y = d · (2 · scale + 1) · level · sign. d is half precision.
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

__all__ = ["IQ3S", "IQ3XXS", "conform_quantizers"]

_XXS, _XXS_BYTES = Format("iq3_xxs", 32, even=True), 98
_S, _S_BYTES = Format("iq3_s", 32, even=False), 110


@dataclass(frozen=True, slots=True)
class IQ3XXS:
    """256 grid points."""

    name: ClassVar[str] = "iq3_xxs"
    layout: ClassVar[Layout] = Layout(18, BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ3XXS":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, BLOCK, _XXS_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return encode(self.name, _XXS, self.effort, _pack_xxs, values, importance)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _XXS_BYTES)
        return decode(_XXS, _unpack_xxs, blocks).reshape(shape)


def _pack_xxs(fields: Fields) -> Packed:
    codes = (fields.signs & 127).astype(np.uint32).reshape(-1, 8, 4) << np.arange(0, 28, 7, dtype=np.uint32)
    words = np.bitwise_or.reduce(codes, axis=2) | fields.scale.astype(np.uint32) << 28
    point = fields.point.astype(np.uint8)
    return np.concatenate([half_bytes(fields), point, words.astype("<u4").view(np.uint8)], axis=1)


def _unpack_xxs(blocks: Packed) -> Fields:
    words = blocks[:, 66:].copy().view("<u4")
    signs = even_signs(words[..., None] >> np.arange(0, 28, 7, dtype=np.uint32)).reshape(-1, 32)
    return Fields(half_words(blocks), (words >> 28).astype(np.uint8), blocks[:, 2:66].astype(np.uint16), signs)


@dataclass(frozen=True, slots=True)
class IQ3S:
    """512 grid points, every sign kept."""

    name: ClassVar[str] = "iq3_s"
    layout: ClassVar[Layout] = Layout(21, BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ3S":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, BLOCK, _S_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        return encode(self.name, _S, self.effort, _pack_s, values, importance)

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _S_BYTES)
        return decode(_S, _unpack_s, blocks).reshape(shape)


def _pack_s(fields: Fields) -> Packed:
    qh = np.packbits((fields.point >> 8).astype(np.uint8), axis=1, bitorder="little")
    low = fields.point.astype(np.uint8)
    return np.concatenate([half_bytes(fields), low, qh, fields.signs, halves(fields.scale)], axis=1)


def _unpack_s(blocks: Packed) -> Fields:
    high = np.unpackbits(blocks[:, 66:74], axis=1, bitorder="little").astype(np.uint16)
    point = blocks[:, 2:66] | high << np.uint16(8)
    return Fields(half_words(blocks), nibbles(blocks[:, 106:]), point, blocks[:, 74:106])


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (IQ3XXS(), IQ3S())
