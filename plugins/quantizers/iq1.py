"""iq1_s and iq1_m: groups of eight values as one of 2048 grid points of levels -1, 0 and 1, shifted by +1/8 or -1/8.

    iq1_s  50 bytes for 256 values: d | 32 bytes qs | 8 × 2 bytes qh            1.5625 bits a value
    iq1_m  56 bytes for 256 values: 32 bytes qs | 16 bytes qh | 4 × 2 bytes scales    1.75 bits

qs holds the low eight bits of each group's point. iq1_s: qh word b serves 32 values: bits 3k … 3k+2 are the high bits
of the point of group k, bits 12-14 the scale, bit 15 is set for the shift -1/8. iq1_m: qh byte i serves the groups 2i
(low half) and 2i+1 (high half): three high bits of the point, then a bit for the shift -1/8; word b of the scales holds
in bits 3k … 3k+2 the scale of the 16 values 4b + k, and in its highest four bits one nibble of d, the lowest first.
Both: y = d · (2 · scale + 1) · (level + shift). d is half precision.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Effort, Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, column_weights, packed_size, run_rows
from conform.plugins.quantizers.search.grids import UInt16, grid
from conform.plugins.quantizers.search.importance import refuse_infinite, relative_weights

__all__ = ["IQ1M", "IQ1S", "conform_quantizers"]

_BLOCK = 256
_S_BYTES = 50
_M_BYTES = 56
_DELTA = np.float32(0.125)
# Super-blocks decoded at a time: 256 KiB of values, which stay in a core's cache.
_PIECE = 256

Integers: TypeAlias = NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class IQ1S:
    """Blocks of 32 values share a scale and a shift."""

    name: ClassVar[str] = "iq1_s"
    layout: ClassVar[Layout] = Layout(19, _BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ1S":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _S_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        weights = relative_weights(column_weights(self.name, importance, rows.shape[1]), _BLOCK)
        packed = run_rows(_kernel(self.name, self.effort), rows, weights, self.nbytes(rows.shape[1:]))
        halves = packed.reshape(-1, _S_BYTES)[:, :2].copy().view("<u2")
        refuse_infinite(self.name, halves.reshape(max(len(rows), 1), -1), _BLOCK)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _S_BYTES)
        values = np.empty((len(blocks), 32, 8), np.float32)
        for first in range(0, len(blocks), _PIECE):
            piece = blocks[first : first + _PIECE]
            d = piece[:, :2].copy().view("<f2").astype(np.float32)
            qh = piece[:, 34:].copy().view("<u2")
            high = qh[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7
            point = piece[:, 2:34] | high.reshape(-1, 32) << 8
            odd = (2 * (qh >> 12 & 7) + 1).repeat(4, axis=1)
            _decode(point, (qh >> 15).repeat(4, axis=1), d, odd, values[first : first + _PIECE])
        return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class IQ1M:
    """Blocks of 16 values share a scale, each group of eight has its own shift."""

    name: ClassVar[str] = "iq1_m"
    layout: ClassVar[Layout] = Layout(29, _BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ1M":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _BLOCK, _M_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _BLOCK)
        weights = relative_weights(column_weights(self.name, importance, rows.shape[1]), _BLOCK)
        packed = run_rows(_kernel(self.name, self.effort), rows, weights, self.nbytes(rows.shape[1:]))
        halves = _split_half(packed.reshape(-1, _M_BYTES)[:, 48:].copy().view("<u2"))
        refuse_infinite(self.name, halves.reshape(max(len(rows), 1), -1), _BLOCK)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _M_BYTES)
        values = np.empty((len(blocks), 32, 8), np.float32)
        for first in range(0, len(blocks), _PIECE):
            piece = blocks[first : first + _PIECE]
            words = piece[:, 48:].copy().view("<u2")
            d = _split_half(words)[:, None].view(np.float16).astype(np.float32)
            level = (words[:, :, None] >> np.arange(0, 12, 3, dtype=np.uint16) & 7).reshape(-1, 16)
            qh = np.stack([piece[:, 32:48] & 15, piece[:, 32:48] >> 4], axis=-1).reshape(-1, 32)
            point = piece[:, :32] | (qh & 7).astype(np.uint16) << 8
            odd = (2 * level + 1).repeat(2, axis=1)
            _decode(point, (qh >> 3).astype(np.uint16), d, odd, values[first : first + _PIECE])
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (IQ1S(), IQ1M())


def _decode(point: Integers, low: Integers, d: Float32, odd: Integers, values: Float32) -> None:
    """values (blocks, 32, 8) = d · odd · (level + shift), of points, shifts and odd (blocks, 32), d (blocks, 1)."""
    levels = grid("iq1").astype(np.float32)
    shifted = np.concatenate([levels + _DELTA, levels - _DELTA])
    np.take(shifted, point | low << 11, axis=0, out=values)
    with np.errstate(invalid="ignore"):  # bytes that no quantizer wrote may hold scales that are not finite
        values *= (d * odd.astype(np.float32))[..., None]


def _split_half(words: UInt16) -> UInt16:
    """The half-precision bits (blocks,) of d, spread over the highest four bits of four words (blocks, 4)."""
    nibbles = words >> 12 << np.arange(0, 16, 4, dtype=np.uint16)
    half: UInt16 = np.bitwise_or.reduce(nibbles, axis=1)
    return half


def _ratios(count: int) -> Float32:
    """Scales to start from, in units of a block's mean magnitude; large ones serve heavy tails."""
    return np.geomspace(0.9, 4, count).round(3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Settings:
    """How hard the search works: `Work` of the kernels explains each."""

    ratios: Float32
    use_grid_first: bool = True
    d_factors: tuple[float, ...] = (1,)
    levels: int = 1
    refits: int = 0


_SETTINGS: dict[Effort, _Settings] = {
    "fast": _Settings(_ratios(6), use_grid_first=False),
    "default": _Settings(_ratios(8)),
    "best": _Settings(_ratios(16), d_factors=(0.9, 0.95, 1, 1.05, 1.1), levels=3, refits=1),
}


def _kernel(name: str, effort: Effort) -> Callable[[Float32, Float32, Packed], None]:
    from conform.plugins.quantizers.kernels import iq1 as iq1_kernels
    from conform.plugins.quantizers.search.iq1_grid import POINTS

    search = iq1_kernels.iq1_s if name == "iq1_s" else iq1_kernels.iq1_m
    settings = _SETTINGS[effort]
    work = iq1_kernels.Work(
        settings.ratios,
        settings.use_grid_first,
        np.array(settings.d_factors, np.float32),
        settings.levels,
        settings.refits,
    )
    return lambda rows, weights, out: search(rows, weights, out, POINTS, work)
