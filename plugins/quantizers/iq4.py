"""iq4_nl and iq4_xs: four bits a value, read through a codebook of sixteen unevenly spaced levels.

    iq4_nl  18 bytes for  32 values: d | 16 bytes of codes                                          4.5  bits a value
    iq4_xs 136 bytes for 256 values: d | scales_h, 2 bytes | scales_l, 4 bytes | 8 × 16 bytes of codes   4.25 bits

Byte j of sixteen holds value j in its low and value j + 16 in its high half. iq4_nl: y = d · level. iq4_xs: the block
b of 32 has a scale of six bits, the low four in half b % 2 of scales_l[b / 2], the high two in bits 2b of scales_h;
y = d · (scale - 32) · level. d is half precision.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from conform.core.quantizer import Effort, Float32, Layout, Packed, Quantizer
from conform.plugins.hookspecs import hookimpl
from conform.plugins.quantizers.blocks import checked_packed, checked_rows, column_weights, packed_size, run_rows
from conform.plugins.quantizers.search.importance import refuse_infinite, relative_weights

__all__ = ["IQ4NL", "IQ4XS", "conform_quantizers"]

_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
_NL_BLOCK, _NL_BYTES = 32, 18
_XS_BLOCK, _XS_BYTES = 256, 136


@dataclass(frozen=True, slots=True)
class IQ4NL:
    """Blocks of 32 values, each with a scale of its own."""

    name: ClassVar[str] = "iq4_nl"
    layout: ClassVar[Layout] = Layout(20, _NL_BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ4NL":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _NL_BLOCK, _NL_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _NL_BLOCK)
        weights = relative_weights(column_weights(self.name, importance, rows.shape[1]), _NL_BLOCK)
        packed = run_rows(_kernel(self.name, self.effort), rows, weights, self.nbytes(rows.shape[1:]))
        _refuse_overflow(self.name, packed, len(rows), _NL_BLOCK, _NL_BYTES)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _NL_BYTES)
        d = blocks[:, :2].copy().view("<f2").astype(np.float32)
        values = _levels(blocks[:, 2:]).reshape(-1, _NL_BLOCK)
        with np.errstate(invalid="ignore"):  # bytes that no quantizer wrote may hold scales that are not finite
            values *= d
        return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class IQ4XS:
    """Super-blocks of eight blocks of 32 values, whose scales are small multiples of one."""

    name: ClassVar[str] = "iq4_xs"
    layout: ClassVar[Layout] = Layout(23, _XS_BLOCK)
    needs_importance: ClassVar[bool] = False
    effort: Effort = "default"

    def with_effort(self, effort: Effort) -> "IQ4XS":
        return replace(self, effort=effort)

    def nbytes(self, shape: tuple[int, ...]) -> int:
        return packed_size(self.name, shape, _XS_BLOCK, _XS_BYTES)

    def quantize(self, values: Float32, importance: Float32 | None = None) -> Packed:
        rows = checked_rows(self.name, values, _XS_BLOCK)
        weights = relative_weights(column_weights(self.name, importance, rows.shape[1]), _XS_BLOCK)
        packed = run_rows(_kernel(self.name, self.effort), rows, weights, self.nbytes(rows.shape[1:]))
        _refuse_overflow(self.name, packed, len(rows), _XS_BLOCK, _XS_BYTES)
        return packed

    def dequantize(self, packed: Packed, shape: tuple[int, ...]) -> Float32:
        blocks = checked_packed(self.name, packed, self.nbytes(shape)).reshape(-1, _XS_BYTES)
        d = blocks[:, :2].copy().view("<f2").astype(np.float32)
        high = blocks[:, 2:4].copy().view("<u2") >> np.arange(0, 16, 2, dtype=np.uint16) & 3
        low = np.stack([blocks[:, 4:8] & 15, blocks[:, 4:8] >> 4], axis=-1).reshape(-1, 8)
        scale = (low | high << 4).astype(np.float32) - np.float32(32)
        values = _levels(blocks[:, 8:].reshape(-1, 8, 16)).reshape(-1, 8, 32)
        with np.errstate(invalid="ignore"):  # bytes that no quantizer wrote may hold scales that are not finite
            values *= (d * scale)[..., None]
        return values.reshape(shape)


@hookimpl
def conform_quantizers() -> Iterable[Quantizer]:
    return (IQ4NL(), IQ4XS())


def _levels(codes: Packed) -> Float32:
    """(…, 16) bytes → (…, 2, 16) levels: the low halves, then the high halves."""
    levels = np.empty((*codes.shape[:-1], 2, 16), np.float32)
    np.take(_LEVELS, codes & 15, out=levels[..., 0, :])
    np.take(_LEVELS, codes >> 4, out=levels[..., 1, :])
    return levels


def _starts(count: int, widest: float) -> Float32:
    """Where the searches for a scale begin: what the value of largest magnitude, over the scale, should be.

    It may become the lowest or the highest level, or be clipped there by a factor of up to `widest`, which pays when
    it has little importance.
    """
    low = -np.geomspace(105, 105 * widest, count)
    high = np.geomspace(95, 95 * widest, count)
    return np.concatenate([low, high]).round(3).astype(np.float32)


_SEARCHES: dict[Effort, tuple[Float32, int]] = {
    "fast": (_starts(6, 1.8), 1),
    "default": (_starts(12, 2.25), 1),
    "best": (_starts(30, 2.9), 2),
}
"""(starts, least-squares refits after them)"""


def _kernel(name: str, effort: Effort) -> Callable[[Float32, Float32, Packed], None]:
    from conform.plugins.quantizers.kernels import iq4 as iq4_kernels

    search = iq4_kernels.iq4_nl if name == "iq4_nl" else iq4_kernels.iq4_xs
    starts, refits = _SEARCHES[effort]
    return lambda rows, weights, out: search(rows, weights, out, starts, refits)


def _refuse_overflow(name: str, packed: Packed, rows: int, block_size: int, block_bytes: int) -> None:
    scales = packed.reshape(-1, block_bytes)[:, :2].copy().view("<u2")
    refuse_infinite(name, scales.reshape(max(rows, 1), -1), block_size)
