"""Super-block: 256 values of iq2_* and iq3_* as scales, grid points and signs, between values and a type's bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Effort, Float32, Packed
from conform.plugins.quantizers.blocks import checked_rows, column_weights, run_rows
from conform.plugins.quantizers.search.grids import GRIDS, LANES, UInt16, grid, neighbours
from conform.plugins.quantizers.search.importance import refuse_infinite, relative_weights
from conform.plugins.quantizers.search.settings import search_settings

__all__ = [
    "BLOCK",
    "Fields",
    "Format",
    "decode",
    "encode",
    "even_signs",
    "half_bytes",
    "half_words",
    "halves",
    "nibbles",
]

BLOCK = 256
# Super-blocks decoded at a time: 256 KiB of values, which stay in a core's cache.
_PIECE = 256


@dataclass(frozen=True, slots=True)
class Format:
    """How a type keeps a super-block: the grid of its points, how many values share a scale, how signs are kept.

    A value is d · (2 · scale + 1) / unit · coordinate · sign, the coordinate and `unit` being those of the grid.
    """

    grid: str
    per_scale: int
    even: bool
    """True if signs of eight values are kept in seven bits, so that the number of minus signs is always even."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Super-blocks, unpacked: d (blocks,) bits of float16; scale (blocks, 256 / per_scale) 0..15; point (blocks, 32 or
    64) of each group; signs (blocks, 32), one bit for each of eight values, the first lowest, 1 = negative.
    """

    d: UInt16
    scale: Packed
    point: UInt16
    signs: Packed


def encode(
    name: str,
    form: Format,
    effort: Effort,
    pack: Callable[[Fields], Packed],
    values: Float32,
    importance: Float32 | None,
) -> Packed:
    """The packed tensor: `pack` turns what the search finds into (blocks, block bytes), d first.

    Raises QuantizeError for values that are not finite, rows that are not whole super-blocks, a wrong importance, and
    values so large that d is infinite.
    """
    rows = checked_rows(name, values, BLOCK)
    weights = relative_weights(column_weights(name, importance, rows.shape[1]), BLOCK)

    def kernel(rows: Float32, weights: Float32, out: Packed) -> None:
        out[:] = pack(_search(form, effort, rows, weights)).reshape(out.shape)

    block_bytes = pack(_zeros(form, 1)).shape[1]
    packed = run_rows(kernel, rows, weights, rows.shape[1] // BLOCK * block_bytes)
    d = half_words(packed.reshape(-1, block_bytes))
    refuse_infinite(name, d.reshape(max(len(rows), 1), -1), BLOCK)
    return packed


def decode(form: Format, unpack: Callable[[Packed], Fields], blocks: Packed) -> Float32:
    """The values (blocks, 256) of packed super-blocks (blocks, block bytes), bit for bit as ggml decodes them.

    Every product is exact in float32: half precision, five and six bits; so the order of factors does not matter.
    """
    points = grid(form.grid).astype(np.float32) / np.float32(GRIDS[form.grid].unit)
    plus_minus = np.float32(1) - np.float32(2) * (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float32)
    values = np.empty((len(blocks), 32, 8), np.float32)
    for first in range(0, len(blocks), _PIECE):
        fields = unpack(blocks[first : first + _PIECE])
        piece = values[first : first + _PIECE]
        np.take(points, fields.point, axis=0, out=piece.reshape(*fields.point.shape, -1))
        piece *= plus_minus[fields.signs]
        d = fields.d.view(np.float16).astype(np.float32)
        with np.errstate(invalid="ignore"):  # bytes that no quantizer wrote may hold scales that are not finite
            scale = d[:, None] * (2 * fields.scale.astype(np.int32) + 1).astype(np.float32)
            by_scale = piece.reshape(*scale.shape, form.per_scale)
            by_scale *= scale[..., None]
    return values.reshape(-1, BLOCK)


def even_signs(codes: NDArray[np.unsignedinteger[Any]]) -> Packed:
    """The eight signs that seven stored bits stand for: the eighth makes the number of minus signs even."""
    low = codes.astype(np.uint8) & np.uint8(127)
    parity = low ^ low >> np.uint8(4)
    parity ^= parity >> np.uint8(2)
    parity ^= parity >> np.uint8(1)
    return low | parity << np.uint8(7)


def halves(scales: Packed) -> Packed:
    """Bytes (…, n) of scales (…, 2n): the first of two in the low half."""
    packed: Packed = scales[..., ::2] | scales[..., 1::2] << np.uint8(4)
    return packed


def nibbles(packed: Packed) -> Packed:
    """Scales (…, 2n) of bytes (…, n)."""
    pairs = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
    return pairs.reshape(*packed.shape[:-1], -1)


def half_words(blocks: Packed) -> UInt16:
    """The bits of d (blocks,), which begins each block."""
    words: UInt16 = blocks[:, :2].copy().view("<u2")[:, 0]
    return words


def half_bytes(fields: Fields) -> Packed:
    """The two bytes (blocks, 2) of d."""
    return fields.d[:, None].astype("<u2").view(np.uint8)


def _zeros(form: Format, blocks: int) -> Fields:
    groups = BLOCK // GRIDS[form.grid].dim
    return Fields(
        np.zeros(blocks, np.uint16),
        np.zeros((blocks, BLOCK // form.per_scale), np.uint8),
        np.zeros((blocks, groups), np.uint16),
        np.zeros((blocks, 32), np.uint8),
    )


def _search(form: Format, effort: Effort, rows: Float32, weights: Float32) -> Fields:
    from conform.plugins.quantizers.kernels import iq_search

    shape, settings = GRIDS[form.grid], search_settings(form.grid, effort)
    near = neighbours(form.grid, max(settings.first_neighbours, settings.last_neighbours))
    found = _zeros(form, rows.size // BLOCK)
    iq_search.search(
        rows,
        np.ascontiguousarray(weights.reshape(-1, BLOCK // shape.dim, shape.dim).swapaxes(1, 2)),
        iq_search.Tables(near.values, near.index, grid(form.grid).view("<i4")),
        iq_search.Kind(
            per_scale=form.per_scale // shape.dim,
            even=int(form.even),
            step=float(shape.step),
            last=shape.last,
            unit=float(shape.unit),
        ),
        np.array(settings.starts, np.float32) / np.float32(shape.unit),
        iq_search.Work(
            refits=settings.refits,
            tries=settings.tries,
            rounds=settings.rounds,
            first_batches=settings.first_neighbours // LANES,
            last_batches=settings.last_neighbours // LANES,
        ),
        iq_search.Output(found.d, found.scale, found.point, found.signs),
    )
    return found
