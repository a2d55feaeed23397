"""Grids: the codebooks of the IQ types, and for each rounded group of values the grid points nearest to it."""

from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRIDS", "LANES", "GridShape", "Int8", "Neighbours", "UInt16", "grid", "neighbours"]

Int8: TypeAlias = NDArray[np.int8]
UInt16: TypeAlias = NDArray[np.uint16]

LANES = 16
"""Neighbours that a kernel scores at once; tables hold them coordinate by coordinate, LANES side by side."""


@dataclass(frozen=True, slots=True)
class GridShape:
    """What a grid is made of: `points` rows of `dim` values, each one of `levels`, in units of 1/`unit`."""

    table: str
    points: int
    dim: int
    levels: tuple[int, ...]
    unit: int

    @property
    def step(self) -> int:
        """The distance between the first two levels, and between all but the last two."""
        return self.levels[1] - self.levels[0]

    @property
    def last(self) -> float:
        """Where the highest level begins to be the nearest."""
        return (self.levels[-2] + self.levels[-1]) / 2


GRIDS = {
    "iq1": GridShape("IQ1_S", 2048, 8, (-1, 0, 1), 1),
    "iq2_xxs": GridShape("IQ2_XXS", 256, 8, (8, 25, 43), 8),
    "iq2_xs": GridShape("IQ2_XS", 512, 8, (8, 25, 43), 8),
    "iq2_s": GridShape("IQ2_S", 1024, 8, (8, 25, 43), 8),
    "iq3_xxs": GridShape("IQ3_XXS", 256, 4, (4, 12, 20, 28, 36, 44, 52, 62), 4),
    "iq3_s": GridShape("IQ3_S", 512, 4, (1, 3, 5, 7, 9, 11, 13, 15), 1),
}
"""Every grid by name; iq1_s and iq1_m share one. The order of the points is the index that files store."""


@cache
def grid(name: str) -> Int8:
    """The points of a grid, (points, dim) int8, read-only, in the units of GRIDS[name].

    The table comes from the `gguf` package: hexadecimal bytes, each holding four 2-bit or two 3-bit level numbers,
    the first in the low bits.
    """
    import gguf.quants

    shape = GRIDS[name]
    packed = np.frombuffer(bytes.fromhex(getattr(gguf.quants, shape.table).grid_hex.decode("ascii")), np.uint8)
    shifts = np.array([0, 2, 4, 6] if len(shape.levels) <= 4 else [0, 4], np.uint8)
    mask = 3 if len(shape.levels) <= 4 else 7
    level = (packed[:, None] >> shifts) & mask
    points: Int8 = np.array(shape.levels, np.int8)[level].reshape(shape.points, shape.dim)
    points.flags.writeable = False
    return points


@dataclass(frozen=True, slots=True)
class Neighbours:
    """For each code (level numbers of a group as digits, first value lowest) the nearest grid points, best first.

    `values` (codes, batches, dim, LANES) int8 are their coordinates and `index` (codes, batches * LANES) their numbers.
    """

    values: Int8
    index: UInt16


@cache
def neighbours(name: str, count: int) -> Neighbours:
    """The `count` (a multiple of LANES) nearest grid points of every code; equal distances go by index."""
    shape, points = GRIDS[name], grid(name).astype(np.float32)
    digits = np.indices((len(shape.levels),) * shape.dim).reshape(shape.dim, -1)[::-1].T
    codes = np.array(shape.levels, np.float32)[digits]
    # Distances are whole numbers below 2^24, so that float32 holds them exactly in any order of summation.
    distance = (codes**2).sum(1)[:, None] - 2 * (codes @ points.T) + (points**2).sum(1)
    rank = distance.astype(np.int64) * shape.points + np.arange(shape.points)
    nearest = np.sort(np.partition(rank, count - 1, axis=1)[:, :count], axis=1) % shape.points
    lanes = grid(name)[nearest].reshape(len(codes), count // LANES, LANES, shape.dim).swapaxes(2, 3)
    return Neighbours(np.ascontiguousarray(lanes), nearest.astype(np.uint16))
