"""Sweep: for given scales, the best grid point of each group of a super-block. Import lazily: this imports numba.

A super-block of 256 values is held transposed, one column for each group that becomes one grid point:

    iq2_*, (8, 32)                       iq3_*, (4, 64)

    x0   x8   x16  …  x240  x248         x0   x4   x8   …  x248  x252
    x1   x9   x17  …  x241  x249         x1   x5   x9   …  x249  x253
    …                                    x2   x6   x10  …  x250  x254
    x7   x15  x23  …  x247  x255         x3   x7   x11  …  x251  x255

A scale s is what one unit of the grid is worth. A group of magnitudes |x| with weights w and a point c has the error

    Σ w (|x| - s c)²  =  Σ w x² - s (A - s B)        A = Σ 2 w |x| c,  B = Σ w c²

so that the best point has the largest A - s B, its score. The signs are stored beside the point; where one of them has
to be wrong, because the type keeps no odd number of minus signs, x and c disagree in sign at one coordinate: its term
of A is subtracted instead of added, and the coordinate with the least term is the one to choose.

Not all points are scored: a group, rounded to the levels of the grid, is a code, and a table holds the grid points
nearest to each code, in batches of sixteen that are scored side by side.

Vectors run over neighbours or groups, never over the terms of a sum, so that the bytes are the same on every machine.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Float32
from conform.plugins.quantizers.kernels.compiled import inside, kernel
from conform.plugins.quantizers.search.grids import LANES, Int8, UInt16

__all__ = ["Groups", "Int32", "Kind", "Tables", "byte", "empty_groups", "sweep"]

Int32: TypeAlias = NDArray[np.int32]
F32, I32 = np.float32, np.int32
WORST = I32(-0x7FFFFFFF)
LARGE = F32(3e38)


class Kind(NamedTuple):
    """What the search must know of a type besides its tables."""

    per_scale: int  # groups that share a 4-bit scale
    even: int  # 1 if the number of minus signs in eight values must be even, else 0
    step: float  # the distance between the levels of iq3, in grid units
    last: float  # where the highest level of iq3 begins to be the nearest
    unit: float  # grid units in 1: d in the file is d of the search times this


class Tables(NamedTuple):
    """The grid of a type, and the neighbours of each code."""

    neighbours: Int8  # (codes, batches, dim, LANES): their coordinates
    numbers: UInt16  # (codes, batches · LANES): their numbers in the grid
    grid: Int32  # (points, dim / 4): the coordinates of a point as bytes, the first lowest


class Groups(NamedTuple):
    """The groups of one super-block: what is given to a sweep, and what it finds."""

    size: Float32  # (dim, groups): |x|
    target: Float32  # (dim, groups): 2 w |x|
    weight: Float32  # (dim, groups): w
    odd: Float32  # (32,): 2 where eight values have an odd number of minus signs that must be even, else 0
    scale: Float32  # (groups,), as all that follow
    flip: Float32  # 2 where one sign of the group is flipped, else 0
    code: Int32  # of the rounded values
    key: Int32  # of the best neighbour
    flipped_key: Int32  # of the best neighbour if one sign is flipped
    point: Int32  # the best neighbour: during a sweep its place among those of the code, then its number in the grid
    flipped_point: Int32
    low: Int32  # the first four coordinates of the point, as bytes
    high: Int32  # the last four
    a: Float32  # A and B of the point
    b: Float32


@inside
def empty_groups(dim: int, groups: int) -> Groups:
    """Room for a super-block."""
    return Groups(
        np.empty((dim, groups), np.float32),
        np.empty((dim, groups), np.float32),
        np.empty((dim, groups), np.float32),
        np.empty(32, np.float32),
        np.empty(groups, np.float32),
        np.empty(groups, np.float32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.float32),
        np.empty(groups, np.float32),
    )


@inside
def _sortable(bits: np.int32) -> np.int32:
    """The bits of a float32 as an integer that orders as the float does; applied again, the bits.

    A float32 is sign, exponent, fraction from the highest bit down, and the exponent is biased to be positive: of two
    positive floats the larger has the larger bits. Of two negative ones the larger magnitude has the larger low 31
    bits, which is the wrong way round; as two's complement both are below all positive ones, which is right. So the
    low 31 bits of the negative ones are inverted. The sign stays, so that a second time undoes the first.
    """
    below_zero = I32(bits >> I32(31))  # all ones or all zeros
    return I32(bits ^ I32(below_zero & I32(0x7FFFFFFF)))


@inside
def _key(score: np.float32, lane: np.int32) -> np.int32:
    """Score and lane as one integer, so that one maximum finds both; the first of lanes with equal scores wins.

    The lane takes the place of the four lowest bits of the score, counted from the end.
    """
    return I32(I32(_sortable(F32(score).view(np.int32)) & I32(-LANES)) | I32(I32(LANES - 1) - lane))


@inside
def _key_score(key: np.int32) -> np.float32:
    return I32(_sortable(I32(I32(key) & I32(-LANES)))).view(np.float32)


@inside
def _key_lane(key: np.int32) -> np.int32:
    return I32(I32(LANES - 1) - I32(I32(key) & I32(LANES - 1)))


@inside
def _less(p: np.float32, q: np.float32) -> np.float32:
    return p if p < q else q


@inside
def byte(word: np.int32, place: int) -> np.float32:
    """One of four coordinates."""
    return F32(I32(I32(word >> I32(8 * place)) & I32(255)))


@inside
def _four(
    neighbours: Int8, code: np.int32, batch: int, lane: int, first: int, target: Float32, weight: Float32, g: int
) -> tuple[np.float32, np.float32, np.float32]:
    """Of a neighbour's coordinates first … first + 3: what they add to A and to B, and the least of the terms of A."""
    c0, c1 = F32(neighbours[code, batch, first, lane]), F32(neighbours[code, batch, first + 1, lane])
    c2, c3 = F32(neighbours[code, batch, first + 2, lane]), F32(neighbours[code, batch, first + 3, lane])
    t0, t1 = c0 * target[first, g], c1 * target[first + 1, g]
    t2, t3 = c2 * target[first + 2, g], c3 * target[first + 3, g]
    u0, u1 = c0 * weight[first, g] * c0, c1 * weight[first + 1, g] * c1
    u2, u3 = c2 * weight[first + 2, g] * c2, c3 * weight[first + 3, g] * c3
    return (t0 + t1) + (t2 + t3), (u0 + u1) + (u2 + u3), _less(_less(t0, t1), _less(t2, t3))


@inside
def _best_key(
    neighbours: Int8,
    code: np.int32,
    batch: int,
    dim: int,
    scale: np.float32,
    flip: np.float32,
    target: Float32,
    weight: Float32,
    g: int,
) -> np.int32:
    """The key of the best of sixteen neighbours, when `flip` times its least term of A is lost."""
    best = WORST
    for lane in range(LANES):
        a, b, least = _four(neighbours, code, batch, lane, 0, target, weight, g)
        if dim == 8:
            more_a, more_b, other = _four(neighbours, code, batch, lane, 4, target, weight, g)
            a, b, least = a + more_a, b + more_b, _less(least, other)
        key = _key(a - flip * least - scale * b, I32(lane))
        best = key if key > best else best
    return best


@inside
def _round_to_three_levels(groups: Groups) -> None:
    """The code of each group of eight: its levels as digits in base 3, the first value lowest."""
    for g in range(32):
        # Half way between the levels 8, 25 and 43.
        t1, t2 = F32(16.5) * groups.scale[g], F32(34.0) * groups.scale[g]
        code, three = I32(0), I32(1)
        for j in range(8):
            x = groups.size[j, g]
            code = I32(code + three * I32(I32(x > t1) + I32(x > t2)))
            three = I32(three * I32(3))
        groups.code[g] = code


@inside
def _round_to_eight_levels(kind: Kind, groups: Groups) -> None:
    """The code of each group of four: its levels as digits in base 8, the first value lowest."""
    step, last = F32(kind.step), F32(kind.last)
    for g in range(64):
        inverse = F32(1) / (groups.scale[g] * step)
        threshold = last * groups.scale[g]
        code = I32(0)
        for j in range(4):
            x = groups.size[j, g]
            level = I32(I32(_less(x * inverse, F32(6))) + I32(x > threshold))
            code = I32(code | I32(level << I32(3 * j)))
        groups.code[g] = code


@inside
def _find_points(neighbours: Int8, batches: int, dim: int, groups: Groups) -> None:
    """key and point of each group, for the flips that are given (of groups of eight) or none (of four)."""
    code, scale, target, weight = groups.code, groups.scale, groups.target, groups.weight
    flips, key, point = groups.flip, groups.key, groups.point
    for g in range(256 // dim):
        key[g] = WORST
    for batch in range(batches):
        for g in range(256 // dim):
            flip = flips[g] if dim == 8 else F32(0)
            found = _best_key(neighbours, code[g], batch, dim, scale[g], flip, target, weight, g)
            if found > key[g]:
                key[g] = found
                point[g] = batch * LANES + _key_lane(found)


@inside
def _find_flipped_points(neighbours: Int8, batches: int, groups: Groups) -> None:
    """flipped_key and flipped_point of each group of four."""
    code, scale, target, weight = groups.code, groups.scale, groups.target, groups.weight
    key, point = groups.flipped_key, groups.flipped_point
    for g in range(64):
        key[g] = WORST
    for batch in range(batches):
        for g in range(64):
            found = _best_key(neighbours, code[g], batch, 4, scale[g], F32(2), target, weight, g)
            if found > key[g]:
                key[g] = found
                point[g] = batch * LANES + _key_lane(found)


@inside
def _choose_flips(groups: Groups) -> None:
    """Where the signs of eight values are odd, flip one in that of their two groups which loses less by it."""
    for h in range(32):
        if groups.odd[h] > 0:
            p, q = 2 * h, 2 * h + 1
            flip_p = _key_score(groups.flipped_key[p]) + _key_score(groups.key[q])
            flip_q = _key_score(groups.key[p]) + _key_score(groups.flipped_key[q])
            first = flip_p >= flip_q
            groups.flip[p] = F32(2) if first else F32(0)
            groups.flip[q] = F32(0) if first else F32(2)
            groups.point[p] = groups.flipped_point[p] if first else groups.point[p]
            groups.point[q] = groups.point[q] if first else groups.flipped_point[q]


@inside
def _look_up(tables: Tables, dim: int, groups: Groups) -> None:
    """From the place of each point among the neighbours its number in the grid, and its coordinates."""
    numbers, grid = tables.numbers, tables.grid
    code, point, low, high = groups.code, groups.point, groups.low, groups.high
    for g in range(256 // dim):
        p = numbers[code[g], point[g]]
        point[g] = p
        low[g] = grid[p, 0]
        if dim == 8:
            high[g] = grid[p, 1]


@inside
def _sum_up(dim: int, groups: Groups) -> None:
    """A and B of each point, one term after another."""
    target, weight, flip = groups.target, groups.weight, groups.flip
    low, high, a, b = groups.low, groups.high, groups.a, groups.b
    for g in range(256 // dim):
        sum_a, sum_b, least = F32(0), F32(0), LARGE
        for j in range(dim):
            c = byte(low[g] if j < 4 else high[g], j & 3)
            term = c * target[j, g]
            sum_a += term
            sum_b += c * weight[j, g] * c
            least = term if term < least else least
        a[g] = sum_a - flip[g] * least
        b[g] = sum_b


@kernel
def _sweep_eights(tables: Tables, batches: int, groups: Groups) -> None:
    _round_to_three_levels(groups)
    _find_points(tables.neighbours, batches, 8, groups)
    _look_up(tables, 8, groups)
    _sum_up(8, groups)


@kernel
def _sweep_fours(tables: Tables, batches: int, kind: Kind, groups: Groups) -> None:
    _round_to_eight_levels(kind, groups)
    _find_points(tables.neighbours, batches, 4, groups)
    if kind.even:
        _find_flipped_points(tables.neighbours, batches, groups)
        _choose_flips(groups)
    _look_up(tables, 4, groups)
    _sum_up(4, groups)


@inside
def sweep(tables: Tables, batches: int, kind: Kind, groups: Groups) -> None:
    """The best point of each group at groups.scale, of the nearest `batches` · LANES, and its A and B.

    Which of two groups of four flips a sign is decided here; of groups of eight, groups.flip says it before.
    """
    if len(groups.size) == 8:
        _sweep_eights(tables, batches, groups)
    else:
        _sweep_fours(tables, batches, kind, groups)
