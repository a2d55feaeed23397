"""Search of iq2_* and iq3_*: scales and grid points of least weighted squared error. Import lazily: this imports numba.

For each super-block (`search`):

    load            values, signs and weights, transposed; mean and greatest magnitude of each sub-block
    want scales     sweeps from scales that the magnitudes suggest; least squares says what scale each sub-block wants
    choose d        the d of whose odd multiples 1, 3, … 31 the wanted scales are nearest to one
    try levels      sweeps at the 4-bit scales next to what each sub-block wants, times d as half precision holds it
    refine          the d of least squares for what was found; again from `try levels`, as long as that helps
    store           points, 4-bit scales and signs

A sub-block is the groups that share a 4-bit scale. What a sweep does, and what A and B are, says iq_sweep. For A and B
summed over a sub-block the best scale is A / 2B: there s (A - s B), by which its error falls, is largest, A² / 4B.

numba keeps compiled kernels by the file of the outermost one, and cannot see that iq_sweep, which is compiled into it,
has changed: whoever edits that file must touch this one.
"""

from typing import NamedTuple

import numpy as np

from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.kernels.compiled import half_bits, half_value, inside, kernel
from conform.plugins.quantizers.kernels.iq_sweep import Groups, Int32, Kind, Tables, byte, empty_groups, sweep
from conform.plugins.quantizers.search.grids import UInt16

__all__ = ["Kind", "Output", "Tables", "Work", "search"]

F32, I32 = np.float32, np.int32
CANDIDATES = 32
INFINITE = 0x7C00
TINY, HUGE = F32(2.0**-40), F32(2.0**40)  # no float16 is small enough for values below, nor large enough above
LARGE = F32(3e38)


class Work(NamedTuple):
    """How hard to search."""

    refits: int  # sweeps from each start
    tries: int  # 4-bit scales tried for each sub-block
    rounds: int  # values of d tried
    first_batches: int  # batches of neighbours that the sweeps look at that begin from a start
    last_batches: int  # and those at 4-bit scales


class Output(NamedTuple):
    """The fields of n super-blocks, zeros before the search."""

    d: UInt16  # (n,): bits of float16
    level: Packed  # (n, sub-blocks): 4-bit scales
    point: UInt16  # (n, groups)
    signs: Packed  # (n, 32): one bit for each of eight values, the first lowest, 1 = negative


class SubBlocks(NamedTuple):
    """The sub-blocks of one super-block, (sub-blocks,) each, and the points that are best so far."""

    mean: Float32  # weighted mean of the magnitudes
    most: Float32  # the greatest of them
    a: Float32  # A and B of the last sweep
    b: Float32
    level: Int32  # the 4-bit scale of the last sweep
    wanted: Float32  # the scale that is best for the points found
    best: Float32  # by how much the error fell at best, and A, B and the 4-bit scale then
    best_a: Float32
    best_b: Float32
    best_level: Int32
    best_point: Int32  # (groups,): the points then, and the flips
    best_flip: Int32


@inside
def _empty_sub_blocks(count: int, groups: int) -> SubBlocks:
    return SubBlocks(
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.int32),
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.float32),
        np.empty(count, np.int32),
        np.empty(groups, np.int32),
        np.empty(groups, np.int32),
    )


@kernel
def _load_signs(row: Float32, even: int, negative: Int32, groups: Groups) -> None:
    """The bits of the negative values of each eight, and where their number is odd and must not be."""
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
        groups.odd[h] = F32(I32(n * I32(2 * even)))


@kernel
def _load(row: Float32, weight: Float32, per: int, groups: Groups, subs: SubBlocks) -> np.float32:
    """Fill the groups from 256 values, and mean and most of the sub-blocks. Returns the sum of the latter."""
    dim, count = weight.shape
    sizes, targets, weights, sums, norms, greatest = (
        groups.size,
        groups.target,
        groups.weight,
        groups.a,
        groups.b,
        groups.scale,
    )
    for g in range(count):
        sums[g], norms[g], greatest[g] = F32(0), F32(0), F32(0)
        groups.flip[g] = groups.odd[g] if dim == 8 else F32(0)
        for j in range(dim):
            x = row[g * dim + j]
            sizes[j, g] = -x if x < 0 else x
    for j in range(dim):
        for g in range(count):
            size, w = sizes[j, g], weight[j, g]
            t = w * size
            weights[j, g] = w
            targets[j, g] = t + t
            sums[g] += t
            norms[g] += w
            greatest[g] = size if size > greatest[g] else greatest[g]
    total = F32(0)
    for q in range(len(subs.mean)):
        t, w, most = F32(0), F32(0), F32(0)
        for g in range(q * per, q * per + per):
            t += groups.a[g]
            w += groups.b[g]
            most = groups.scale[g] if groups.scale[g] > most else most
        subs.mean[q], subs.most[q] = t / w, most
        subs.best[q], subs.best_b[q], subs.wanted[q] = F32(0), F32(1), F32(0)
        total += most
    return total


@kernel
def _start(start: Float32, refit: int, per: int, groups: Groups, subs: SubBlocks) -> None:
    """The scales of a first sweep: from the magnitudes, or what the points of the sweep before it want."""
    for q in range(len(subs.mean)):
        s = start[0] * subs.mean[q] + start[1] * subs.most[q]
        s = subs.a[q] / (F32(2) * subs.b[q]) if refit else s
        for g in range(q * per, q * per + per):
            groups.scale[g] = s


@kernel
def _learn(per: int, groups: Groups, subs: SubBlocks) -> None:
    """After a first sweep: the scale that is best for its points, where no other sweep's points were better."""
    for q in range(len(subs.mean)):
        a, b = F32(0), F32(0)
        for g in range(q * per, q * per + per):
            a += groups.a[g]
            b += groups.b[g]
        subs.a[q], subs.b[q] = a, b
        gain = a * a / b if a > 0 else F32(0)
        if gain > subs.best[q]:
            subs.best[q], subs.best_b[q], subs.wanted[q] = gain, b, a / (F32(2) * b)


@kernel
def _want_scales(tables: Tables, starts: Float32, work: Work, kind: Kind, groups: Groups, subs: SubBlocks) -> None:
    """What scale each sub-block wants, for the best points that sweeps from all starts find."""
    for start in range(len(starts)):
        for refit in range(work.refits):
            _start(starts[start], refit, kind.per_scale, groups, subs)
            sweep(tables, work.first_batches, kind, groups)
            _learn(kind.per_scale, groups, subs)


@kernel
def _choose_d(subs: SubBlocks, errors: Float32) -> np.float32:
    """The d, of CANDIDATES around the greatest wanted scale / 31, whose odd multiples miss the wanted scales least.

    errors (3, CANDIDATES) is scratch.
    """
    top = F32(0)
    for q in range(len(subs.mean)):
        top = subs.wanted[q] if subs.wanted[q] > top else top
    error, d, inverse = errors[0], errors[1], errors[2]
    for i in range(CANDIDATES):
        error[i] = F32(0)
        d[i] = top * (F32(0.75 / 31) + F32(0.5 / 31 / (CANDIDATES - 1)) * F32(I32(i)))
        inverse[i] = F32(0.5) / d[i]
    for q in range(len(subs.mean)):
        s, b = subs.wanted[q], subs.best_b[q]
        for i in range(CANDIDATES):
            n = I32(s * inverse[i])
            n = n if n < I32(15) else I32(15)
            miss = s - d[i] * F32(I32(I32(n + n) + I32(1)))
            error[i] += b * miss * miss
    best = 0
    for i in range(CANDIDATES):
        best = i if error[i] < error[best] else best
    chosen: np.float32 = d[best]
    return chosen


@kernel
def _approach(d: np.float32, nth: int, per: int, groups: Groups, subs: SubBlocks) -> None:
    """The nth nearest 4-bit scale, of units d, to what each sub-block wants: its level, and the scale of its groups."""
    for q in range(len(subs.mean)):
        exact = (subs.wanted[q] / d - F32(1)) * F32(0.5)
        exact = exact if exact < F32(15) else F32(15)
        near = int(exact + F32(0.5))
        side = 1 if exact >= F32(near) else -1
        n = near + side * ((nth + 1) // 2 if nth & 1 else -(nth // 2))
        n = 0 if n < 0 else (15 if n > 15 else n)
        subs.level[q] = n
        for g in range(q * per, q * per + per):
            groups.scale[g] = d * F32(2 * n + 1)


@kernel
def _keep(nth: int, per: int, groups: Groups, subs: SubBlocks) -> None:
    """After a further sweep: keep level and points of the sub-blocks that are better than with any other level."""
    for q in range(len(subs.mean)):
        a, b, s = F32(0), F32(0), groups.scale[q * per]
        for g in range(q * per, q * per + per):
            a += groups.a[g]
            b += groups.b[g]
        score = s * (a - s * b)
        if nth == 0 or score > subs.best[q]:
            subs.best[q], subs.best_a[q], subs.best_b[q] = score, a, b
            subs.best_level[q] = subs.level[q]
            for g in range(q * per, q * per + per):
                subs.best_point[g], subs.best_flip[g] = groups.point[g], I32(groups.flip[g])


@kernel
def _try_levels(d: np.float32, tables: Tables, work: Work, kind: Kind, groups: Groups, subs: SubBlocks) -> None:
    """The best level of each sub-block, of those next to what it wants in units of d, and its points."""
    for nth in range(work.tries):
        _approach(d, nth, kind.per_scale, groups, subs)
        sweep(tables, work.last_batches, kind, groups)
        _keep(nth, kind.per_scale, groups, subs)


@kernel
def _refine(subs: SubBlocks) -> tuple[np.float32, np.float32]:
    """The total score, and the d of least squares for points and levels found; what each sub-block wants by now."""
    total, a, b = F32(0), F32(0), F32(0)
    for q in range(len(subs.mean)):
        m = F32(2 * subs.best_level[q] + 1)
        total += subs.best[q]
        a += subs.best_a[q] * m
        b += subs.best_b[q] * m * m
        subs.wanted[q] = subs.best_a[q] / (F32(2) * subs.best_b[q]) if subs.best_a[q] > 0 else F32(0)
    return total, a / (F32(2) * b)


@kernel
def _store(tables: Tables, kind: Kind, negative: Int32, groups: Groups, subs: SubBlocks, out: Output, o: int) -> None:
    """Everything but d of super-block o; the cheapest sign of a group is flipped where that was decided."""
    dim, count = groups.size.shape
    for q in range(len(subs.mean)):
        out.level[o, q] = subs.best_level[q]
    for h in range(32):
        out.signs[o, h] = negative[h]
    for g in range(count):
        point = subs.best_point[g]
        out.point[o, g] = point
        if kind.even:
            at, least = 0, LARGE
            for j in range(dim):
                t = byte(tables.grid[point, j // 4], j & 3) * groups.target[j, g]
                at, least = (j, t) if t < least else (at, least)
            out.signs[o, g * dim // 8] ^= (subs.best_flip[g] >> 1) << (g * dim % 8 + at)


@kernel
def search(
    rows: Float32, weights: Float32, tables: Tables, kind: Kind, starts: Float32, work: Work, out: Output
) -> None:
    """Fill out for rows (n, cols), with weights (cols / 256, dim, groups), transposed as super-blocks are."""
    blocks, dim, count = weights.shape
    groups, subs = empty_groups(dim, count), _empty_sub_blocks(count // kind.per_scale, count)
    negative, errors = np.empty(32, np.int32), np.empty((3, CANDIDATES), np.float32)
    for o in range(len(rows) * blocks):
        i = o % blocks
        row = rows[o // blocks, 256 * i : 256 * i + 256]
        _load_signs(row, kind.even, negative, groups)
        total = _load(row, weights[i], kind.per_scale, groups, subs)
        if not TINY < total < HUGE:
            out.d[o] = 0 if total <= TINY else INFINITE
            continue
        _want_scales(tables, starts, work, kind, groups, subs)
        d, most = _choose_d(subs, errors), F32(0)
        for nth in range(work.rounds):
            bits = half_bits(d * F32(kind.unit))
            if bits >= INFINITE:
                out.d[o] = bits
            if bits == 0 or bits >= INFINITE:
                break
            _try_levels(half_value(bits) / F32(kind.unit), tables, work, kind, groups, subs)
            total, d = _refine(subs)
            if nth > 0 and total <= most:
                break
            most, out.d[o] = total, bits
            _store(tables, kind, negative, groups, subs, out, o)
