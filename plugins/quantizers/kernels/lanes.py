"""Lanes: many blocks searched side by side. Import lazily: this imports numba.

Arrays of a search are (value, lane), a lane being one block. Loops run over lanes, so that the sums over a block are
made in the same order however many lanes a machine's vectors hold, and the bytes are the same everywhere.
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
    """Blocks `first` and following as lanes of x and w, (values of a block, LANES); past the end zeros and ones.

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

    unit (LANES,) becomes what undoes it; 0 for a group too small, HUGE for one too large for any float16 scale: the
    values of both become 0.
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
