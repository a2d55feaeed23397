"""The search kernels of iq1_s and iq1_m, over lanes of blocks that share a scale. Import lazily: this imports numba.

LANES blocks are searched side by side, and a super-block is a run of eight or sixteen lanes:

    iq1_s   x (32, LANES)   a block is 32 values, four groups of eight, with one shift for all   super-block: 8 lanes
    iq1_m   x (16, LANES)   a block is 16 values, two groups of eight, each with its own shift   super-block: 16 lanes

For each super-block: `_free_scale` finds the scale of each block for levels -1, 0, 1 in any combination, and `_search`
refines it with grid points only; `_super_scale` chooses d, of which the scales of the blocks must be odd multiples, and
`_try_levels` the best multiple for each block; at last `_refit` fits d by least squares.
"""

from typing import NamedTuple

import numpy as np

from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.kernels.compiled import half_bits, half_value, kernel, scalar
from conform.plugins.quantizers.kernels.iq1_nearest import nearest
from conform.plugins.quantizers.kernels.lanes import HUGE, LANES, load, normalise
from conform.plugins.quantizers.search.iq1_grid import Int16, Int32, Int64

__all__ = ["Work", "iq1_m", "iq1_s"]

ZERO, HALF, ONE, TWO = (np.float32(v) for v in (0, 0.5, 1, 2))
DELTA = np.float32(0.125)
SHARED = 32  # blocks of that size (iq1_s) have one shift for all groups; in smaller ones (iq1_m) each has its own
INFINITY = np.float32(np.inf)
SMALLEST_HALF = np.float32(2.0**-24)
INFINITE_HALF, NO_HALF = np.int64(0x7C00), np.int64(0)
LOW_DELTA = np.int32(1 << 16)  # in a choice, above eight bits of signs and eight of magnitudes: the shift is -1/8
DIVISORS = np.geomspace(7.5, 22, 32).round(3).astype(np.float32)  # the largest block scale in units of d


class Work(NamedTuple):
    """How hard to search."""

    ratios: Float32  # scales to start from, in units of a block's mean magnitude
    use_grid_first: bool  # refine the block scales with grid points before d is chosen for them
    d_factors: Float32  # multiples of the chosen d to try
    levels: int  # odd multiples of each d to try as the scale of a block
    refits: int  # times that d is fitted to the points found, and the points are searched again


@kernel
def _search(x: Float32, w: Float32, scale: Float32, loss: Float32, choice: Int32) -> None:
    """The best points of every group (choice) at each lane's scale, and the weighted squared error (loss)."""
    groups = len(x) // 8
    shared = len(x) == SHARED
    inverse = np.empty(LANES, np.float32)
    high = np.empty(LANES, np.float32)
    low = np.empty(LANES, np.float32)
    high_total = np.empty(LANES, np.float32)
    low_total = np.empty(LANES, np.float32)
    low_choice = np.empty((groups, LANES), np.int32)
    for lane in range(LANES):
        inverse[lane] = ONE / scale[lane] if scale[lane] > ZERO else ZERO
        high_total[lane] = ZERO
        low_total[lane] = ZERO
    for group in range(groups):
        nearest(x, w, 8 * group, inverse, DELTA, high, choice[group])
        nearest(x, w, 8 * group, inverse, -DELTA, low, low_choice[group])
        for lane in range(LANES):
            high_total[lane] += high[lane] if shared else min(high[lane], low[lane])
            low_total[lane] += low[lane]
            if not shared:
                lower = low[lane] < high[lane]
                choice[group, lane] = np.int32(low_choice[group, lane] | LOW_DELTA) if lower else choice[group, lane]
    for lane in range(LANES):
        lower = shared & (low_total[lane] < high_total[lane])
        loss[lane] = scale[lane] * scale[lane] * (low_total[lane] if lower else high_total[lane])
        for group in range(groups):
            choice[group, lane] = np.int32(low_choice[group, lane] | LOW_DELTA) if lower else choice[group, lane]


@kernel
def _fit(x: Float32, w: Float32, choice: Int32, a: Float32, b: Float32) -> None:
    """a = sum w x q and b = sum w q² for q the levels chosen: a / b is the best scale for them."""
    a[:] = ZERO
    b[:] = ZERO
    for j in range(len(x)):
        place = np.int32(j & 7)
        for lane in range(LANES):
            bits = choice[j >> 3, lane]
            level = ONE if (bits >> place) & 1 else ZERO
            level = -level if (bits >> (place + 8)) & 1 else level
            q = level + (-DELTA if bits >> 16 else DELTA)
            wq = w[j, lane] * q
            a[lane] += wq * x[j, lane]
            b[lane] += wq * q


@kernel
def _free_scale(x: Float32, w: Float32, ratios: Float32, scale: Float32, curvature: Float32) -> None:
    """scale becomes the best found for levels that need be no grid point, starting at ratios of the mean magnitude.

    curvature: the weighted squared error rises by curvature times the square of a departure from scale.
    """
    groups = len(x) // 8
    shared = len(x) == SHARED
    sums = np.empty((10, LANES), np.float32)
    mean, weight, inverse, best = sums[6], sums[7], sums[8], sums[9]
    for lane in range(LANES):
        mean[lane] = ZERO
        weight[lane] = ZERO
        best[lane] = -ONE
        scale[lane] = ZERO
        curvature[lane] = ONE
    for j in range(len(x)):
        for lane in range(LANES):
            mean[lane] += w[j, lane] * abs(x[j, lane])
            weight[lane] += w[j, lane]
    for lane in range(LANES):
        mean[lane] /= weight[lane]
    for ratio in ratios:
        for lane in range(LANES):
            inverse[lane] = ONE / (ratio * mean[lane]) if mean[lane] > ZERO else ZERO
        sums[:6] = ZERO
        for group in range(groups):
            _free_fit(x, w, 8 * group, inverse, sums)
            if not shared or group == groups - 1:
                _take_delta(inverse, sums)
        for lane in range(LANES):
            a, b = sums[4, lane], sums[5, lane]
            score = a * (a / b)
            better = score > best[lane]
            scale[lane] = a / b if better else scale[lane]
            curvature[lane] = b if better else curvature[lane]
            best[lane] = score if better else best[lane]


@kernel
def _free_fit(x: Float32, w: Float32, first: int, inverse: Float32, sums: Float32) -> None:
    """Add a and b of eight values' nearest levels to sums 0, 1 for the shift +1/8, to sums 2, 3 for -1/8."""
    for j in range(first, first + 8):
        for lane in range(LANES):
            u = x[j, lane] * inverse[lane]
            high = (ONE if u > HALF + DELTA else ZERO) - (ONE if u < DELTA - HALF else ZERO) + DELTA
            low = (ONE if u > HALF - DELTA else ZERO) - (ONE if u < -HALF - DELTA else ZERO) - DELTA
            wx = w[j, lane] * x[j, lane]
            sums[0, lane] += wx * high
            sums[1, lane] += w[j, lane] * high * high
            sums[2, lane] += wx * low
            sums[3, lane] += w[j, lane] * low * low


@kernel
def _take_delta(inverse: Float32, sums: Float32) -> None:
    """Move the sums of the better shift to 4 and 5, and clear both."""
    for lane in range(LANES):
        i = inverse[lane]
        high = sums[1, lane] - TWO * sums[0, lane] * i
        low = sums[3, lane] - TWO * sums[2, lane] * i
        # Losses in units of scale²: sum w (x/s - q)² less what does not depend on q.
        sums[4, lane] += sums[0, lane] if high < low else sums[2, lane]
        sums[5, lane] += sums[1, lane] if high < low else sums[3, lane]
        sums[0, lane] = ZERO
        sums[1, lane] = ZERO
        sums[2, lane] = ZERO
        sums[3, lane] = ZERO


@kernel
def _super_scale(scale: Float32, curvature: Float32, first: int, count: int) -> np.float32:
    """The d that fits the block scales of `count` lanes from `first` best, each being d times 1, 3, 5, … 15."""
    peak = ZERO
    for lane in range(first, first + count):
        peak = max(peak, scale[lane])
    loss = np.zeros(len(DIVISORS), np.float32)
    for lane in range(first, first + count):
        for k in range(len(DIVISORS)):
            ratio = scale[lane] * DIVISORS[k] / peak
            miss = (ratio - _odd(ratio)) / DIVISORS[k]
            loss[k] += curvature[lane] * miss * miss
    best = 0
    for k in range(len(DIVISORS)):
        best = k if loss[k] < loss[best] else best
    return np.float32(peak / DIVISORS[best])


@scalar
def _odd(ratio: np.float32) -> np.float32:
    """The odd number from 1 to 15 nearest to ratio."""
    half = np.rint((ratio - ONE) * HALF)
    half = ZERO if half < ZERO else half
    half = np.float32(7) if half > np.float32(7) else half
    return half + half + ONE


@kernel
def _improve(
    x: Float32, w: Float32, scale: Float32, odd: Float32, level: Float32, best: Float32, choice: Int32
) -> None:
    """Search at the scale, which is `odd` times d; where that is better than best, keep its choice, level and loss."""
    trial = np.empty_like(choice)
    loss = np.empty(LANES, np.float32)
    _search(x, w, scale, loss, trial)
    for lane in range(LANES):
        better = loss[lane] < best[lane]
        level[lane] = odd[lane] if better else level[lane]
        best[lane] = loss[lane] if better else best[lane]
        for group in range(len(choice)):
            choice[group, lane] = trial[group, lane] if better else choice[group, lane]


@kernel
def _try_levels(
    x: Float32,
    w: Float32,
    scale: Float32,
    d: Float32,
    tries: int | np.int64,
    level: Float32,
    best: Float32,
    choice: Int32,
) -> None:
    """level, best and choice become, lane by lane, those of the best odd multiple of d, of `tries` nearest to scale."""
    odd = np.empty(LANES, np.float32)
    target = np.empty(LANES, np.float32)
    best[:] = INFINITY
    for step in range(tries):
        for lane in range(LANES):
            ratio = scale[lane] / d[lane] if d[lane] > ZERO else ZERO
            closest = _odd(ratio)
            # The second nearest is on the other side of the ratio, the third beyond the nearest, and so on.
            side = ONE if (ratio > closest) == (step % 2 == 1) else -ONE
            odd[lane] = _odd(closest + side * np.float32((step + 1) // 2 * 2))
            target[lane] = d[lane] * odd[lane]
        _improve(x, w, target, odd, level, best, choice)


@kernel
def _refit(level: Float32, a: Float32, b: Float32, first: int, count: int) -> np.float32:
    """The d with the least error for the levels and choices that gave a and b."""
    numerator, denominator = ZERO, ZERO
    for lane in range(first, first + count):
        numerator += level[lane] * a[lane]
        denominator += level[lane] * level[lane] * b[lane]
    return numerator / denominator


@kernel
def _set_d(d: Float32, halves: Int64, value: np.float32, unit: np.float32, first: int, count: int) -> None:
    """The scale of a super-block, rounded to float16, in units of the normalised values; no scale below zero."""
    half = half_bits(value * unit) if value > ZERO else NO_HALF
    half = INFINITE_HALF if unit >= HUGE else half
    usable = NO_HALF < half < INFINITE_HALF
    halves[first] = half
    rounded = half_value(half) / unit if usable else ZERO
    for lane in range(first, first + count):
        d[lane] = rounded


@kernel
def _keep_better(best: Float32, level: Float32, choice: Int32, loss: Float32, levels: Float32, choices: Int32) -> None:
    """Of each super-block keep in best, level and choice what has the smaller sum of losses."""
    count = 32 // len(choice)
    for first in range(0, LANES, count):
        total, held = ZERO, ZERO
        for lane in range(first, first + count):
            total += loss[lane]
            held += best[lane]
        if total < held:
            for lane in range(first, first + count):
                best[lane] = loss[lane]
                level[lane] = levels[lane]
                for group in range(len(choice)):
                    choice[group, lane] = choices[group, lane]


@kernel
def _choose(x: Float32, w: Float32, unit: Float32, work: Work, level: Float32, choice: Int32, d: Float32) -> None:
    """Block scales found freely, then the super-block's d for them, then for each block the best multiple of d."""
    count = 256 // len(x)
    scratch = np.empty((6, LANES), np.float32)
    scale, curvature, base, best, loss, levels = (
        scratch[0],
        scratch[1],
        scratch[2],
        scratch[3],
        scratch[4],
        scratch[5],
    )
    choices = np.empty_like(choice)
    _free_scale(x, w, work.ratios, scale, curvature)
    if work.use_grid_first:
        _search(x, w, scale, best, choice)
        _fit(x, w, choice, best, curvature)
        for lane in range(LANES):
            scale[lane] = max(best[lane] / curvature[lane], ZERO)
    for first in range(0, LANES, count):
        found = _super_scale(scale, curvature, first, count)
        for lane in range(first, first + count):
            base[lane] = found
            best[lane] = INFINITY
    for factor in work.d_factors:
        for lane in range(LANES):
            d[lane] = base[lane] * factor
            if ZERO < unit[lane] < HUGE:
                d[lane] = max(d[lane], SMALLEST_HALF / unit[lane])
        _try_levels(x, w, scale, d, work.levels, levels, loss, choices)
        _keep_better(best, level, choice, loss, levels, choices)


@kernel
def _solve(x: Float32, w: Float32, unit: Float32, work: Work, level: Float32, choice: Int32, halves: Int64) -> None:
    """Scales, levels and choices of all lanes."""
    count = 256 // len(x)
    scratch = np.empty((4, LANES), np.float32)
    scale, a, b, d = scratch[0], scratch[1], scratch[2], scratch[3]
    _choose(x, w, unit, work, level, choice, d)
    for step in range(work.refits + 1):
        _fit(x, w, choice, a, b)
        for first in range(0, LANES, count):
            _set_d(d, halves, _refit(level, a, b, first, count), unit[first], first, count)
        if step < work.refits:
            for lane in range(LANES):
                scale[lane] = d[lane] * level[lane]
            _try_levels(x, w, scale, d, np.int64(1), level, a, choice)


@kernel
def iq1_s(rows: Float32, weights: Float32, out: Packed, points: Int16, work: Work) -> None:
    """Quantize rows (rows, cols) into out (rows, cols / 256 * 50); a scale beyond float16 is written as infinity."""
    x = np.empty((32, LANES), np.float32)
    w = np.empty((32, LANES), np.float32)
    peak = np.empty(LANES, np.float32)
    unit = np.empty(LANES, np.float32)
    level = np.empty(LANES, np.float32)
    choice = np.empty((4, LANES), np.int32)
    halves = np.empty(LANES, np.int64)
    per_row = rows.shape[1] // 32
    total = len(rows) * per_row
    for first in range(0, total, LANES):
        load(rows, weights, first, x, w, peak)
        normalise(x, peak, unit, 256 // len(x))
        _solve(x, w, unit, work, level, choice, halves)
        for lane in range(0, min(LANES, total - first), 8):
            row = (first + lane) // per_row
            at = (first + lane - row * per_row) // 8 * 50
            _write_s(level, choice, halves[lane], lane, points, out[row], at)


@kernel
def _write_s(level: Float32, choice: Int32, half: np.int64, first: int, points: Int16, out: Packed, at: int) -> None:
    """One super-block: d | low bits of 32 points | 8 × high bits of 4 points, scale, shift."""
    if half == NO_HALF:
        return
    out[at] = np.uint8(half & 0xFF)
    out[at + 1] = np.uint8(half >> 8)
    for block in range(8):
        lane = first + block
        high = (np.int64(level[lane]) // 2) << 12 | np.int64(choice[0, lane] >> 16) << 15
        for group in range(4):
            point = np.int64(points[choice[group, lane] & 0xFFFF])
            out[at + 2 + 4 * block + group] = np.uint8(point & 0xFF)
            high |= (point >> 8) << (3 * group)
        out[at + 34 + 2 * block] = np.uint8(high & 0xFF)
        out[at + 35 + 2 * block] = np.uint8(high >> 8)


@kernel
def iq1_m(rows: Float32, weights: Float32, out: Packed, points: Int16, work: Work) -> None:
    """Quantize rows (rows, cols) into out (rows, cols / 256 * 56); a scale beyond float16 is written as infinity."""
    x = np.empty((16, LANES), np.float32)
    w = np.empty((16, LANES), np.float32)
    peak = np.empty(LANES, np.float32)
    unit = np.empty(LANES, np.float32)
    level = np.empty(LANES, np.float32)
    choice = np.empty((2, LANES), np.int32)
    halves = np.empty(LANES, np.int64)
    per_row = rows.shape[1] // 16
    total = len(rows) * per_row
    for first in range(0, total, LANES):
        load(rows, weights, first, x, w, peak)
        normalise(x, peak, unit, 256 // len(x))
        _solve(x, w, unit, work, level, choice, halves)
        for lane in range(0, min(LANES, total - first), 16):
            row = (first + lane) // per_row
            at = (first + lane - row * per_row) // 16 * 56
            _write_m(level, choice, halves[lane], lane, points, out[row], at)


@kernel
def _write_m(level: Float32, choice: Int32, half: np.int64, first: int, points: Int16, out: Packed, at: int) -> None:
    """One super-block: low bits of 32 points | 16 × high bits and shifts of two | 4 × four scales and a nibble of d."""
    if half == NO_HALF:
        return
    for block in range(16):
        lane = first + block
        for group in range(2):
            point = np.int64(points[choice[group, lane] & 0xFFFF])
            high = point >> 8 | np.int64(choice[group, lane] >> 16) << 3
            out[at + 2 * block + group] = np.uint8(point & 0xFF)
            out[at + 32 + block] |= np.uint8(high << (4 * group))
    for four in range(4):
        word = (half >> (4 * four) & 15) << 12
        for block in range(4):
            word |= (np.int64(level[first + 4 * four + block]) // 2) << (3 * block)
        out[at + 48 + 2 * four] = np.uint8(word & 0xFF)
        out[at + 49 + 2 * four] = np.uint8(word >> 8)
