"""Search of iq2_* and iq3_*: scales and grid points of least weighted squared error. Import lazily: this imports numba.

A super-block of 256 values is held transposed, one column for each group that shares a grid point: (8, 32) for iq2,
(4, 64) for iq3. A scale s is what one unit of the grid is worth. With A = sum 2 w |x| c and B = sum w c^2 over values
x with weights w and coordinates c, the squared error is sum w x^2 - s (A - s B); the larger s (A - s B), the better.

A sweep finds, for a given scale of each sub-block, the best point of each group among the neighbours of its rounded
values. The first sweeps start from scales that the magnitudes suggest, and find by least squares what scale each
sub-block wants; then d is chosen, and further sweeps try the 4-bit scales next to what each sub-block wants.

Neighbours come in batches of sixteen, which are scored side by side, and the best is the largest of sixteen integers
that hold a score in their high bits and the neighbour in the low four.

Vectors run over candidates or groups, never over the terms of a sum, so that the bytes are the same on every machine.
Arrays are passed one by one, because a tuple of arrays costs a reference count at each use; rows of the scratch arrays
have names instead.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.kernels.compiled import half_bits, half_value, kernel
from conform.plugins.quantizers.search.grids import Int8, UInt16

__all__ = ["Kind", "Plan", "search"]

_Function = TypeVar("_Function", bound=Callable[..., object])
Int32: TypeAlias = NDArray[np.int32]
F32, I32 = np.float32, np.int32
LANES = 16
TRIALS = 32
WORST = I32(-0x7FFFFFFF)
INFINITE = 0x7C00
TINY, HUGE = F32(2.0**-40), F32(2.0**40)  # no float16 is small enough for values below, nor large enough above

# block (3, dim, groups) float32: |x|, 2 w |x|, w.
SIZE, TARGET, WEIGHT = 0, 1, 2
# given (2, groups) float32: the scale; 2 where one sign of the group is flipped, else 0.
SCALE, FLIP = 0, 1
# found (4, groups) int32: the code of the rounded values, the point found, and its coordinates as bytes.
CODE, POINT, LOW, HIGH = 0, 1, 2, 3
# sums (2, groups) float32: A and B of each group's point.
# subs (8, sub-blocks) float32: of the last sweep; mean and greatest magnitude; the best so far, and the scale it wants.
A, B, MEAN, MOST, BEST, BEST_A, BEST_B, WANTED = 0, 1, 2, 3, 4, 5, 6, 7
# keys (2, groups) int32: of the best neighbour, and of the best with a flipped sign (iq3).
# level (2, sub-blocks) int32: the 4-bit scale of the last sweep, and the best. best (2, groups): its point and flip.


class Kind(NamedTuple):
    """What the search must know of a type besides its grid."""

    per: int  # groups that share a 4-bit scale
    parity: int  # 1 if the number of minus signs in eight values must be even
    step: float  # distance between the levels of iq3, in grid units
    last: float  # the threshold of the highest level of iq3
    unit: float  # d in the file = unit * d in grid units


class Plan(NamedTuple):
    """How hard to search."""

    refits: int  # sweeps from each start
    tries: int  # 4-bit scales tried for each sub-block
    rounds: int  # values of d tried
    first: int  # batches of neighbours that the first sweeps look at
    last: int  # and the further sweeps


def _inside(function: _Function) -> _Function:
    """Compile into its callers, as machine code rather than as source: `inlined` costs much more time to compile."""
    compiled: _Function = njit(nogil=True, forceinline=True, error_model="numpy")(function)
    return compiled


@_inside
def _ranked(score: np.float32, lane: np.int32) -> np.int32:
    """An integer that orders as the score does, with the lane in its low bits: the lowest of equal lanes wins."""
    bits = F32(score).view(np.int32)
    bits = I32(bits ^ I32(I32(bits >> I32(31)) & I32(0x7FFFFFFF)))
    return I32(I32(bits & I32(-LANES)) | I32(I32(LANES - 1) - lane))


@_inside
def _score(key: np.int32) -> np.float32:
    bits = I32(I32(key) & I32(-LANES))
    return I32(bits ^ I32(I32(bits >> I32(31)) & I32(0x7FFFFFFF))).view(np.float32)


@_inside
def _less(p: np.float32, q: np.float32) -> np.float32:
    return p if p < q else q


@_inside
def _byte(word: np.int32, shift: np.int32) -> np.float32:
    return F32(I32(I32(word >> shift) & I32(255)))


@_inside
def _best8(values: Int8, code: np.int32, b: int, s: np.float32, flip: np.float32, block: Float32, g: int) -> np.int32:
    """The key of the best of 16 neighbours, `flip` times the share of its cheapest coordinate being given up."""
    a0, a1, a2, a3 = block[TARGET, 0, g], block[TARGET, 1, g], block[TARGET, 2, g], block[TARGET, 3, g]
    a4, a5, a6, a7 = block[TARGET, 4, g], block[TARGET, 5, g], block[TARGET, 6, g], block[TARGET, 7, g]
    b0, b1, b2, b3 = block[WEIGHT, 0, g], block[WEIGHT, 1, g], block[WEIGHT, 2, g], block[WEIGHT, 3, g]
    b4, b5, b6, b7 = block[WEIGHT, 4, g], block[WEIGHT, 5, g], block[WEIGHT, 6, g], block[WEIGHT, 7, g]
    best = WORST
    for k in range(LANES):
        c0, c1 = F32(values[code, b, 0, k]), F32(values[code, b, 1, k])
        c2, c3 = F32(values[code, b, 2, k]), F32(values[code, b, 3, k])
        c4, c5 = F32(values[code, b, 4, k]), F32(values[code, b, 5, k])
        c6, c7 = F32(values[code, b, 6, k]), F32(values[code, b, 7, k])
        t0, t1, t2, t3 = c0 * a0, c1 * a1, c2 * a2, c3 * a3
        t4, t5, t6, t7 = c4 * a4, c5 * a5, c6 * a6, c7 * a7
        least = _less(_less(_less(t0, t1), _less(t2, t3)), _less(_less(t4, t5), _less(t6, t7)))
        sa = ((t0 + t1) + (t2 + t3)) + ((t4 + t5) + (t6 + t7))
        u0, u1, u2, u3 = c0 * b0 * c0, c1 * b1 * c1, c2 * b2 * c2, c3 * b3 * c3
        u4, u5, u6, u7 = c4 * b4 * c4, c5 * b5 * c5, c6 * b6 * c6, c7 * b7 * c7
        sb = ((u0 + u1) + (u2 + u3)) + ((u4 + u5) + (u6 + u7))
        key = _ranked(sa - flip * least - s * sb, I32(k))
        best = key if key > best else best
    return best


@kernel
def _sweep8(
    values: Int8,
    index: UInt16,
    grid: Int32,
    batches: int,
    block: Float32,
    given: Float32,
    found: Int32,
    sums: Float32,
    keys: Int32,
) -> None:
    """The best point of each group of eight for given scales and flips, and its A and B."""
    for g in range(32):
        t1, t2 = F32(16.5) * given[SCALE, g], F32(34.0) * given[SCALE, g]
        code, three = I32(0), I32(1)
        for j in range(8):
            x = block[SIZE, j, g]
            code = I32(code + three * I32(I32(x > t1) + I32(x > t2)))
            three = I32(three * I32(3))
        found[CODE, g] = code
        keys[0, g] = WORST
    for b in range(batches):
        for g in range(32):
            key = _best8(values, found[CODE, g], b, given[SCALE, g], given[FLIP, g], block, g)
            if key > keys[0, g]:
                keys[0, g] = key
                found[POINT, g] = b * LANES + (LANES - 1) - (key & (LANES - 1))
    for g in range(32):
        p = index[found[CODE, g], found[POINT, g]]
        found[POINT, g] = p
        found[LOW, g] = grid[p, 0]
        found[HIGH, g] = grid[p, 1]
    for g in range(32):
        sa, sb, least = F32(0), F32(0), F32(3e38)
        for j in range(8):
            word = found[LOW, g] if j < 4 else found[HIGH, g]
            c = _byte(word, I32(8 * (j & 3)))
            t = c * block[TARGET, j, g]
            sa += t
            sb += c * block[WEIGHT, j, g] * c
            least = t if t < least else least
        sums[A, g] = sa - given[FLIP, g] * least
        sums[B, g] = sb


@_inside
def _best4(values: Int8, code: np.int32, b: int, s: np.float32, flip: np.float32, block: Float32, g: int) -> np.int32:
    """As _best8, for groups of four."""
    a0, a1, a2, a3 = block[TARGET, 0, g], block[TARGET, 1, g], block[TARGET, 2, g], block[TARGET, 3, g]
    b0, b1, b2, b3 = block[WEIGHT, 0, g], block[WEIGHT, 1, g], block[WEIGHT, 2, g], block[WEIGHT, 3, g]
    best = WORST
    for k in range(LANES):
        c0, c1 = F32(values[code, b, 0, k]), F32(values[code, b, 1, k])
        c2, c3 = F32(values[code, b, 2, k]), F32(values[code, b, 3, k])
        t0, t1, t2, t3 = c0 * a0, c1 * a1, c2 * a2, c3 * a3
        least = _less(_less(t0, t1), _less(t2, t3))
        sb = (c0 * b0 * c0 + c1 * b1 * c1) + (c2 * b2 * c2 + c3 * b3 * c3)
        key = _ranked(((t0 + t1) + (t2 + t3)) - flip * least - s * sb, I32(k))
        best = key if key > best else best
    return best


@kernel
def _flip4(values: Int8, batches: int, odd: Float32, block: Float32, given: Float32, found: Int32, keys: Int32) -> None:
    """Where the signs of eight values are odd, let the better one of their two groups flip its cheapest sign."""
    for b in range(batches):
        for g in range(64):
            key = _best4(values, found[CODE, g], b, given[SCALE, g], F32(2), block, g)
            if key > keys[1, g]:
                keys[1, g] = key
                found[LOW, g] = b * LANES + (LANES - 1) - (key & (LANES - 1))
    for h in range(32):
        if odd[h] > 0:
            p, q = 2 * h, 2 * h + 1
            first = _score(keys[1, p]) + _score(keys[0, q]) >= _score(keys[0, p]) + _score(keys[1, q])
            given[FLIP, p] = F32(2) if first else F32(0)
            given[FLIP, q] = F32(0) if first else F32(2)
            found[POINT, p] = found[LOW, p] if first else found[POINT, p]
            found[POINT, q] = found[POINT, q] if first else found[LOW, q]


@kernel
def _sweep4(
    values: Int8,
    index: UInt16,
    grid: Int32,
    batches: int,
    kind: Kind,
    odd: Float32,
    block: Float32,
    given: Float32,
    found: Int32,
    sums: Float32,
    keys: Int32,
) -> None:
    """As _sweep8, for groups of four; given[FLIP] is decided here."""
    step, last = F32(kind.step), F32(kind.last)
    for g in range(64):
        inverse = F32(1) / (given[SCALE, g] * step)
        threshold = last * given[SCALE, g]
        code = I32(0)
        for j in range(4):
            x = block[SIZE, j, g]
            level = I32(I32(_less(x * inverse, F32(6))) + I32(x > threshold))
            code = I32(code | I32(level << I32(3 * j)))
        found[CODE, g] = code
        keys[0, g], keys[1, g] = WORST, WORST
    for b in range(batches):
        for g in range(64):
            key = _best4(values, found[CODE, g], b, given[SCALE, g], F32(0), block, g)
            if key > keys[0, g]:
                keys[0, g] = key
                found[POINT, g] = b * LANES + (LANES - 1) - (key & (LANES - 1))
    if kind.parity:
        _flip4(values, batches, odd, block, given, found, keys)
    for g in range(64):
        p = index[found[CODE, g], found[POINT, g]]
        found[POINT, g] = p
        found[LOW, g] = grid[p, 0]
    for g in range(64):
        sa, sb, least = F32(0), F32(0), F32(3e38)
        for j in range(4):
            c = _byte(found[LOW, g], I32(8 * j))
            t = c * block[TARGET, j, g]
            sa += t
            sb += c * block[WEIGHT, j, g] * c
            least = t if t < least else least
        sums[A, g] = sa - given[FLIP, g] * least
        sums[B, g] = sb


@_inside
def _sweep(
    values: Int8,
    index: UInt16,
    grid: Int32,
    batches: int,
    kind: Kind,
    odd: Float32,
    block: Float32,
    given: Float32,
    found: Int32,
    sums: Float32,
    keys: Int32,
) -> None:
    if block.shape[1] == 8:
        _sweep8(values, index, grid, batches, block, given, found, sums, keys)
    else:
        _sweep4(values, index, grid, batches, kind, odd, block, given, found, sums, keys)


@kernel
def _parities(row: Float32, negative: Int32, odd: Float32, parity: int) -> None:
    """The bits of the negative values of each eight, and 2 where their parity is odd and the type forbids that."""
    bits = row.view(np.int32)
    for h in range(32):
        n = I32(0)
        for i in range(8):
            n = I32(n | I32(I32(I32(bits[8 * h + i] >> I32(31)) & I32(1)) << I32(i)))
        negative[h] = n
    for h in range(32):
        n = negative[h]
        n = I32(n ^ I32(n >> I32(4)))
        n = I32(n ^ I32(n >> I32(2)))
        n = I32(I32(n ^ I32(n >> I32(1))) & I32(1))
        odd[h] = F32(I32(n * I32(2 * parity)))


@kernel
def _load(
    row: Float32, weight: Float32, per: int, odd: Float32, block: Float32, given: Float32, sums: Float32, subs: Float32
) -> np.float32:
    """Fill a block from 256 values; mean and greatest magnitude of each sub-block. Returns the sum of the latter."""
    dim, groups = weight.shape
    for g in range(groups):
        sums[A, g], sums[B, g], given[SCALE, g] = F32(0), F32(0), F32(0)
        given[FLIP, g] = odd[g] if dim == 8 else F32(0)
        for j in range(dim):
            x = row[g * dim + j]
            block[SIZE, j, g] = -x if x < 0 else x
    for j in range(dim):
        for g in range(groups):
            size, w = block[SIZE, j, g], weight[j, g]
            t = w * size
            block[WEIGHT, j, g] = w
            block[TARGET, j, g] = t + t
            sums[A, g] += t
            sums[B, g] += w
            given[SCALE, g] = size if size > given[SCALE, g] else given[SCALE, g]
    total = F32(0)
    for q in range(subs.shape[1]):
        t, w, most = F32(0), F32(0), F32(0)
        for g in range(q * per, q * per + per):
            t += sums[A, g]
            w += sums[B, g]
            most = given[SCALE, g] if given[SCALE, g] > most else most
        subs[MEAN, q], subs[MOST, q] = t / w, most
        subs[BEST, q], subs[BEST_B, q], subs[WANTED, q] = F32(0), F32(1), F32(0)
        total += most
    return total


@kernel
def _begin(start: Float32, refit: int, per: int, given: Float32, subs: Float32) -> None:
    """The scales of a first sweep: from the magnitudes, or what the points of the sweep before it want."""
    for q in range(subs.shape[1]):
        s = start[0] * subs[MEAN, q] + start[1] * subs[MOST, q]
        s = subs[A, q] / (F32(2) * subs[B, q]) if refit else s
        for g in range(q * per, q * per + per):
            given[SCALE, g] = s


@kernel
def _learn(per: int, sums: Float32, subs: Float32) -> None:
    """After a first sweep: the scale that is best for its points, where no other sweep's points were better."""
    for q in range(subs.shape[1]):
        a, b = F32(0), F32(0)
        for g in range(q * per, q * per + per):
            a += sums[A, g]
            b += sums[B, g]
        subs[A, q], subs[B, q] = a, b
        gain = a * a / b if a > 0 else F32(0)
        if gain > subs[BEST, q]:
            subs[BEST, q], subs[BEST_B, q], subs[WANTED, q] = gain, b, a / (F32(2) * b)


@kernel
def _scan(subs: Float32, trial: Float32) -> np.float32:
    """The d, of TRIALS around the greatest scale / 31, that the wanted scales miss by the least error."""
    top = F32(0)
    for q in range(subs.shape[1]):
        top = subs[WANTED, q] if subs[WANTED, q] > top else top
    error, d, inverse = trial[0], trial[1], trial[2]
    for i in range(TRIALS):
        error[i] = F32(0)
        d[i] = top * (F32(0.75 / 31) + F32(0.5 / 31 / (TRIALS - 1)) * F32(I32(i)))
        inverse[i] = F32(0.5) / d[i]
    for q in range(subs.shape[1]):
        s, b = subs[WANTED, q], subs[BEST_B, q]
        for i in range(TRIALS):
            n = I32(s * inverse[i])
            n = n if n < I32(15) else I32(15)
            miss = s - d[i] * F32(I32(I32(n + n) + I32(1)))
            error[i] += b * miss * miss
    best = 0
    for i in range(TRIALS):
        best = i if error[i] < error[best] else best
    chosen: np.float32 = d[best]
    return chosen


@kernel
def _approach(d: np.float32, nth: int, per: int, given: Float32, subs: Float32, level: Int32) -> None:
    """The nth nearest 4-bit scale, of units d, to what each sub-block wants: level[0], and given[SCALE]."""
    for q in range(subs.shape[1]):
        exact = _less((subs[WANTED, q] / d - F32(1)) * F32(0.5), F32(15))
        near = int(exact + F32(0.5))
        side = 1 if exact >= F32(near) else -1
        n = near + side * ((nth + 1) // 2 if nth & 1 else -(nth // 2))
        n = 0 if n < 0 else (15 if n > 15 else n)
        level[0, q] = n
        for g in range(q * per, q * per + per):
            given[SCALE, g] = d * F32(2 * n + 1)


@kernel
def _keep(
    nth: int, per: int, given: Float32, found: Int32, sums: Float32, subs: Float32, level: Int32, best: Int32
) -> None:
    """After a further sweep: keep level and points of the sub-blocks that are better than with any other level."""
    for q in range(subs.shape[1]):
        a, b, s = F32(0), F32(0), given[SCALE, q * per]
        for g in range(q * per, q * per + per):
            a += sums[A, g]
            b += sums[B, g]
        score = s * (a - s * b)
        if nth == 0 or score > subs[BEST, q]:
            subs[BEST, q], subs[BEST_A, q], subs[BEST_B, q] = score, a, b
            level[1, q] = level[0, q]
            for g in range(q * per, q * per + per):
                best[0, g], best[1, g] = found[POINT, g], I32(given[FLIP, g])


@kernel
def _refine(subs: Float32, level: Int32) -> tuple[np.float32, np.float32]:
    """The total score, and the d of least squares for points and levels found; what each sub-block wants by now."""
    total, a, b = F32(0), F32(0), F32(0)
    for q in range(subs.shape[1]):
        m = F32(2 * level[1, q] + 1)
        total += subs[BEST, q]
        a += subs[BEST_A, q] * m
        b += subs[BEST_B, q] * m * m
        subs[WANTED, q] = subs[BEST_A, q] / (F32(2) * subs[BEST_B, q]) if subs[BEST_A, q] > 0 else F32(0)
    return total, a / (F32(2) * b)


@kernel
def _store(
    grid: Int32,
    negative: Int32,
    parity: int,
    block: Float32,
    level: Int32,
    best: Int32,
    out_level: Packed,
    out_point: UInt16,
    out_sign: Packed,
) -> None:
    """The fields of the super-block; the cheapest sign of a group is flipped where that was decided."""
    dim, groups = block.shape[1], block.shape[2]
    for q in range(level.shape[1]):
        out_level[q] = level[1, q]
    for h in range(32):
        out_sign[h] = negative[h]
    for g in range(groups):
        out_point[g] = best[0, g]
        if parity:
            at, least = 0, F32(3e38)
            for j in range(dim):
                t = _byte(grid[best[0, g], j // 4], I32(8 * (j & 3))) * block[TARGET, j, g]
                at, least = (j, t) if t < least else (at, least)
            out_sign[g * dim // 8] ^= (best[1, g] >> 1) << (g * dim % 8 + at)


@kernel
def search(
    rows: Float32,
    weights: Float32,
    values: Int8,
    index: UInt16,
    grid: Int32,
    kind: Kind,
    starts: Float32,
    plan: Plan,
    out_d: UInt16,
    out_level: Packed,
    out_point: UInt16,
    out_sign: Packed,
) -> None:
    """Fill the outputs (zeros) for rows (n, cols); weights (cols / 256, dim, groups) are transposed as blocks are."""
    dim, groups, per, blocks = weights.shape[1], weights.shape[2], kind.per, rows.shape[1] // 256
    subs, level = np.empty((8, groups // per), np.float32), np.empty((2, groups // per), np.int32)
    block, given = np.empty((3, dim, groups), np.float32), np.empty((2, groups), np.float32)
    found, keys = np.empty((4, groups), np.int32), np.empty((2, groups), np.int32)
    best = np.empty((2, groups), np.int32)
    sums, trial = np.empty((2, groups), np.float32), np.empty((3, TRIALS), np.float32)
    negative, odd = np.empty(32, np.int32), np.empty(32, np.float32)
    first = len(starts) * plan.refits
    for o in range(len(rows) * blocks):
        i = o % blocks
        row = rows[o // blocks, 256 * i : 256 * i + 256]
        _parities(row, negative, odd, kind.parity)
        total = _load(row, weights[i], per, odd, block, given, sums, subs)
        if not TINY < total < HUGE:
            out_d[o] = 0 if total <= TINY else INFINITE
            continue
        d, bits, most = F32(0), np.int64(0), F32(0)
        for step in range(first + plan.rounds * plan.tries):
            nth = (step - first) % plan.tries
            if step < first:
                _begin(starts[step // plan.refits], step % plan.refits, per, given, subs)
            else:
                if nth == 0:
                    d = _scan(subs, trial) if step == first else d
                    bits = half_bits(d * F32(kind.unit))
                    if bits == 0 or bits >= INFINITE:
                        break
                    d = half_value(bits) / F32(kind.unit)
                _approach(d, nth, per, given, subs, level)
            batches = plan.first if step < first else plan.last
            _sweep(values, index, grid, batches, kind, odd, block, given, found, sums, keys)
            if step < first:
                _learn(per, sums, subs)
                continue
            _keep(nth, per, given, found, sums, subs, level, best)
            if nth == plan.tries - 1:
                total, d = _refine(subs, level)
                if out_d[o] and total <= most:
                    break
                most, out_d[o] = total, bits
                _store(grid, negative, kind.parity, block, level, best, out_level[o], out_point[o], out_sign[o])
        if bits >= INFINITE:
            out_d[o] = bits
