"""The search kernels of iq4_nl and iq4_xs, over lanes of 32 values. Import lazily: this imports numba.

LANES blocks of 32 values are searched side by side, in arrays (32, LANES). In iq4_nl each lane is on its own; in iq4_xs
eight lanes in a row are a super-block, and their scales are multiples of one d.
"""

import numpy as np

from conform.core.quantizer import Float32, Packed
from conform.plugins.quantizers.kernels.compiled import half_bits, half_value, kernel, scalar
from conform.plugins.quantizers.kernels.lanes import HUGE, LANES, load, normalise

__all__ = ["iq4_nl", "iq4_xs"]

SIZE = 32  # values in a block
ZERO, ONE = np.float32(0), np.float32(1)
INFINITE_HALF = np.int64(0x7C00)
INFINITY = np.float32(np.inf)
NO_HALF = np.int64(0)
SUPER_STEPS = 5

# The sixteen levels of the codebook, and the thresholds half way between them.
L0, L1, L2, L3, L4, L5, L6, L7 = (np.float32(v) for v in (-127, -104, -83, -65, -49, -35, -22, -10))
L8, L9, L10, L11, L12, L13, L14, L15 = (np.float32(v) for v in (1, 13, 25, 38, 53, 69, 89, 113))
T1, T2, T3, T4, T5, T6, T7, T8 = (np.float32(v) for v in (-115.5, -93.5, -74, -57, -42, -28.5, -16, -4.5))
T9, T10, T11, T12, T13, T14, T15 = (np.float32(v) for v in (7, 19, 31.5, 45.5, 61, 79, 101))


@scalar
def _level(v: np.float32) -> np.float32:
    """The codebook level nearest to v: a chain of selects, which vectorises where a search does not."""
    q = L1 if v > T1 else L0
    q = L2 if v > T2 else q
    q = L3 if v > T3 else q
    q = L4 if v > T4 else q
    q = L5 if v > T5 else q
    q = L6 if v > T6 else q
    q = L7 if v > T7 else q
    q = L8 if v > T8 else q
    q = L9 if v > T9 else q
    q = L10 if v > T10 else q
    q = L11 if v > T11 else q
    q = L12 if v > T12 else q
    q = L13 if v > T13 else q
    q = L14 if v > T14 else q
    return L15 if v > T15 else q


@scalar
def _code(v: np.float32) -> np.int32:
    """The index of _level(v) in the codebook."""
    low = np.int32(v > T1) + np.int32(v > T2) + np.int32(v > T3) + np.int32(v > T4)
    low += np.int32(v > T5) + np.int32(v > T6) + np.int32(v > T7) + np.int32(v > T8)
    low += np.int32(v > T9) + np.int32(v > T10) + np.int32(v > T11) + np.int32(v > T12)
    return low + np.int32(v > T13) + np.int32(v > T14) + np.int32(v > T15)


@kernel
def _fit(x: Float32, w: Float32, inverse: Float32, a: Float32, b: Float32) -> None:
    """a = sum w x q and b = sum w q² for q the levels nearest to x * inverse."""
    a[:] = ZERO
    b[:] = ZERO
    for j in range(SIZE):
        for lane in range(LANES):
            q = _level(x[j, lane] * inverse[lane])
            wq = w[j, lane] * q
            a[lane] += wq * x[j, lane]
            b[lane] += wq * q


@kernel
def _search(
    x: Float32, w: Float32, peak: Float32, starts: Float32, refits: int, scale: Float32, curvature: Float32
) -> None:
    """For each lane the scale with the least weighted squared error that the starts and refits lead to."""
    inverse = np.empty(LANES, np.float32)
    a = np.empty(LANES, np.float32)
    b = np.empty(LANES, np.float32)
    best = np.empty(LANES, np.float32)
    best[:] = -ONE
    for step in range(len(starts) + refits):
        for lane in range(LANES):
            if step < len(starts):
                inverse[lane] = starts[step] / peak[lane] if peak[lane] != ZERO else ZERO
            else:
                inverse[lane] = ONE / scale[lane] if scale[lane] != ZERO else ZERO
        _fit(x, w, inverse, a, b)
        for lane in range(LANES):
            score = a[lane] * (a[lane] / b[lane])
            better = score > best[lane]
            scale[lane] = a[lane] / b[lane] if better else scale[lane]
            curvature[lane] = b[lane] if better else curvature[lane]
            best[lane] = score if better else best[lane]


@kernel
def _write_codes(x: Float32, inverse: np.float32, lane: int, out: Packed, at: int) -> None:
    """The sixteen bytes of one block: value j in the low, value j + 16 in the high half of byte j."""
    for j in range(16):
        low = _code(x[j, lane] * inverse)
        high = _code(x[j + 16, lane] * inverse)
        out[at + j] = np.uint8(low | (high << 4))


@kernel
def iq4_nl(rows: Float32, weights: Float32, out: Packed, starts: Float32, refits: int) -> None:
    """Quantize rows (rows, cols) into out (rows, cols / 32 * 18); a scale beyond float16 is written as infinity."""
    x = np.empty((SIZE, LANES), np.float32)
    w = np.empty((SIZE, LANES), np.float32)
    peak = np.empty(LANES, np.float32)
    unit = np.empty(LANES, np.float32)
    scale = np.empty(LANES, np.float32)
    curvature = np.empty(LANES, np.float32)
    per_row = rows.shape[1] // SIZE
    total = len(rows) * per_row
    for first in range(0, total, LANES):
        load(rows, weights, first, x, w, peak)
        normalise(x, peak, unit, np.int64(1))
        _search(x, w, peak, starts, refits, scale, curvature)
        for lane in range(min(LANES, total - first)):
            row = (first + lane) // per_row
            at = (first + lane - row * per_row) * 18
            _write_nl(x, lane, scale[lane], unit[lane], out[row], at)


@kernel
def _write_nl(x: Float32, lane: int, scale: np.float32, unit: np.float32, out: Packed, at: int) -> None:
    half = half_bits(scale * unit) if unit < HUGE else INFINITE_HALF
    if half & 0x7FFF == 0:
        return
    out[at] = np.uint8(half & 0xFF)
    out[at + 1] = np.uint8(half >> 8)
    if half & 0x7FFF < INFINITE_HALF:
        _write_codes(x, unit / half_value(half), lane, out, at + 2)


@kernel
def _super_scale(scale: Float32, curvature: Float32, unit: np.float32, first: int) -> np.int64:
    """The float16 bits of d that fits the eight block scales from lane `first` best, each being d times -32 .. 31."""
    peak = first
    for lane in range(first, first + 8):
        peak = lane if abs(scale[lane]) > abs(scale[peak]) else peak
    best, chosen = np.float32(np.inf), NO_HALF
    for step in range(-SUPER_STEPS, SUPER_STEPS + 1):
        # The largest scale becomes -32 (or 31), or a little more or less than that.
        divisor = np.float32(-32 if step < 0 else 31) + np.float32(abs(step) - 2) * np.float32(0.5)
        half = half_bits(scale[peak] / divisor * unit)
        half = half if half & 0x7FFF else half | 1  # the smallest scale, where a block scale makes up for it
        d = half_value(half) / unit
        loss = ZERO
        for lane in range(first, first + 8):
            miss = scale[lane] - d * _block_scale(scale[lane] / d)
            loss += curvature[lane] * miss * miss
        if loss < best:
            best, chosen = loss, half
    return chosen


@scalar
def _block_scale(ratio: np.float32) -> np.float32:
    return np.float32(min(max(np.rint(ratio), np.float32(-32)), np.float32(31)))


@kernel
def _choose_scales(x: Float32, w: Float32, scale: Float32, d: Float32, level: Float32) -> None:
    """level becomes, lane by lane, the better of the two whole multiples of d around the scale."""
    inverse = np.empty(LANES, np.float32)
    a = np.empty(LANES, np.float32)
    b = np.empty(LANES, np.float32)
    trial = np.empty(LANES, np.float32)
    best = np.empty(LANES, np.float32)
    best[:] = INFINITY
    for step in range(2):
        for lane in range(LANES):
            ratio = scale[lane] / d[lane] if d[lane] != ZERO else ZERO
            near = _block_scale(np.floor(ratio) + np.float32(step))
            trial[lane] = near
            inverse[lane] = ONE / (near * d[lane]) if near * d[lane] != ZERO else ZERO
        _fit(x, w, inverse, a, b)
        for lane in range(LANES):
            s = trial[lane] * d[lane]
            loss = s * (s * b[lane] - (a[lane] + a[lane]))
            better = loss < best[lane]
            level[lane] = trial[lane] if better else level[lane]
            best[lane] = loss if better else best[lane]


@kernel
def iq4_xs(rows: Float32, weights: Float32, out: Packed, starts: Float32, refits: int) -> None:
    """Quantize rows (rows, cols) into out (rows, cols / 256 * 136); a scale beyond float16 is written as infinity."""
    x = np.empty((SIZE, LANES), np.float32)
    w = np.empty((SIZE, LANES), np.float32)
    peak = np.empty(LANES, np.float32)
    unit = np.empty(LANES, np.float32)
    scale = np.empty(LANES, np.float32)
    curvature = np.empty(LANES, np.float32)
    halves = np.empty(LANES, np.int64)
    d = np.empty(LANES, np.float32)
    level = np.empty(LANES, np.float32)
    per_row = rows.shape[1] // SIZE
    total = len(rows) * per_row
    for first in range(0, total, LANES):
        load(rows, weights, first, x, w, peak)
        normalise(x, peak, unit, np.int64(8))
        _search(x, w, peak, starts, refits, scale, curvature)
        for lane in range(0, LANES, 8):
            usable = ZERO < unit[lane] < HUGE
            halves[lane] = _super_scale(scale, curvature, unit[lane], lane) if usable else 0
            for block in range(lane, lane + 8):
                d[block] = half_value(halves[lane]) / unit[lane] if usable else ZERO
        _choose_scales(x, w, scale, d, level)
        for lane in range(0, min(LANES, total - first), 8):
            row = (first + lane) // per_row
            at = (first + lane - row * per_row) // 8 * 136
            half: np.int64 = halves[lane] if unit[lane] < HUGE else INFINITE_HALF
            _write_xs(x, level, lane, half, d[lane], out[row], at)


@kernel
def _write_xs(x: Float32, level: Float32, first: int, half: np.int64, d: np.float32, out: Packed, at: int) -> None:
    if half & 0x7FFF == 0:
        return
    out[at] = np.uint8(half & 0xFF)
    out[at + 1] = np.uint8(half >> 8)
    for block in range(8):
        code = np.int64(level[first + block]) + 32
        out[at + 2 + block // 4] |= np.uint8((code >> 4) << (2 * (block % 4)))
        out[at + 4 + block // 2] |= np.uint8((code & 15) << (4 * (block % 2)))
        s = d * level[first + block]
        inverse = ONE / s if s != ZERO else ZERO
        _write_codes(x, inverse, first + block, out, at + 8 + 16 * block)
