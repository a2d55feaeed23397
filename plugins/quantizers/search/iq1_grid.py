"""The grid of iq1_s and iq1_m as a search looks at it: by the signs of a group and the magnitudes of its levels."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conform.plugins.quantizers.search.grids import grid

__all__ = ["GRID_BITS", "POINTS", "Int16", "Int32", "Int64"]

Int16: TypeAlias = NDArray[np.int16]
Int32: TypeAlias = NDArray[np.int32]
Int64: TypeAlias = NDArray[np.int64]


def _points() -> Int16:
    """For (signs, magnitudes), each eight bits, value i in bit i, the number of that grid point, or -1; (65536,).

    A value of level 0 may have either sign.
    """
    levels = grid("iq1")
    bits = 1 << np.arange(8)
    negative, magnitude = (levels < 0) @ bits, (levels != 0) @ bits
    points = np.full((256, 256), -1, np.int16)
    for signs in range(256):
        agrees = np.flatnonzero(((signs ^ negative) & magnitude) == 0)
        points[signs, magnitude[agrees]] = agrees
    return points.reshape(-1)


POINTS = _points()
POINTS.flags.writeable = False
GRID_BITS: Int32 = np.packbits(POINTS >= 0, bitorder="little").view("<i4").astype(np.int32)
"""One bit for each entry of POINTS, set where there is a grid point: eight words for each pattern of signs."""
