"""Lanes: many blocks searched side by side. Import lazily: this imports numba.

A lane is one block, and the arrays of a search are (values of a block, LANES). For blocks of 32 values:

              lane 0   lane 1   lane 2   …   lane 63
    value 0   x0       x32      x64          x2016
    value 1   x1       x33      x65          x2017
     …
    value 31  x31      x63      x95          x2047

The inner loops run over lanes, so that the terms of a block's sum are added one after another, however many lanes the
vectors of a machine hold, and the bytes are the same everywhere.
"""

import numpy as np

from conform.core.quantizer import Float32
from conform.plugins.quantizers.kernels.compiled import kernel

__all__ = ["HUGE", "LANES", "load", "normalise"]

LANES = 64
ZERO, ONE = np.float32(0), np.float32(1)
TINY = np.float32(2.0**-40)  # no float16 scale is small enough for values below this
HUGE = np.float32(2.0**60)  # nor large enough for values above this


@kernel
def load(rows: Float32, weights: Float32, first: int, x: Float32, w: Float32, peak: Float32) -> None:
    """Fill x and w, (values of a block, LANES), with the blocks from `first` on; past the last one, zeros and ones.

    peak (LANES,) becomes each block's value of largest magnitude.
    """
    size = len(x)
    per_row = rows.shape[1] // size
    total = len(rows) * per_row
    for lane in range(LANES):
        block = first + lane
        row = block // per_row
        col = (block - row * per_row) * size
        for j in range(size):
            x[j, lane] = rows[row, col + j] if block < total else ZERO
            w[j, lane] = weights[col + j] if block < total else ONE
    peak[:] = ZERO
    for j in range(size):
        for lane in range(LANES):
            peak[lane] = x[j, lane] if abs(x[j, lane]) > abs(peak[lane]) else peak[lane]


@kernel
def normalise(x: Float32, peak: Float32, unit: Float32, group: int | np.int64) -> None:
    """Scale each group of lanes, exactly, by a power of two so that its largest value is between 1 and 2.

    unit (LANES,) becomes the factor that undoes it; 0 for a group below TINY and HUGE for one above HUGE, which no
    float16 scale fits: the values of both become 0.
    """
    for first in range(0, LANES, group):
        largest = ZERO
        for lane in range(first, first + group):
            largest = max(largest, abs(peak[lane]))
        usable = TINY <= largest <= HUGE
        exponent = np.float32(largest).view(np.int32) & 0x7F800000
        down = np.int32((254 << 23) - exponent).view(np.float32) if usable else ZERO
        up = ONE / down if usable else (ZERO if largest < TINY else HUGE)
        for lane in range(first, first + group):
            unit[lane] = up
            peak[lane] *= down
            for j in range(len(x)):
                x[j, lane] *= down
