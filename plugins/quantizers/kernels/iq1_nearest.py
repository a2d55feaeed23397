"""The nearest grid points of iq1_s and iq1_m, of many groups at once. Import lazily: this imports numba.

A group is eight values of a lane; a loop over the LANES lanes does for all of them what is written here for one.

A group becomes a grid point of eight levels -1, 0 or 1, which are all shifted by +1/8 or -1/8. Of the 6561 combinations
2048 are grid points. The search for the nearest does not walk through them. For u, a value over the scale less the
shift, with the weight w, the level sign(u) costs w (|u| - 1)² and the level 0 costs w u²; the larger is larger by

    w u² - w (|u| - 1)²  =  2 w (|u| - 1/2)

The cheapest combination takes the better of the two for each value. Where it is not a grid point, some levels have to
be flipped to the other of the two, each at the cost above. With the costs sorted, twenty combinations of the cheapest
flips are looked up in a bitmap of (signs, magnitudes). The error so found is within 0.03 % of what looking at all grid
points finds, 0.4 % when the weights within a group differ by orders of magnitude.
"""

from typing import TypeAlias

import numpy as np

from conform.core.quantizer import Float32
from conform.plugins.quantizers.kernels.compiled import inside, kernel, scalar
from conform.plugins.quantizers.kernels.lanes import LANES
from conform.plugins.quantizers.search.iq1_grid import GRID_BITS, Int32

__all__ = ["nearest"]

ZERO, HALF, ONE = (np.float32(v) for v in (0, 0.5, 1))
SEVEN, FIVE = (np.int32(v) for v in (7, 5))
Coordinate: TypeAlias = tuple[np.float32, np.float32, np.int32, np.int32]
Costs: TypeAlias = tuple[np.float32, np.float32, np.float32, np.float32, np.float32, np.float32, np.float32, np.float32]


@scalar
def _coordinate(x: np.float32, w: np.float32, inverse: np.float32, delta: np.float32, i: np.int32) -> Coordinate:
    """Of value i: its loss at the nearest level, the cost of the flip, its sign and magnitude.

    The three lowest bits of the cost are replaced by i, so that sorting the costs sorts the values with them.
    """
    u = x * inverse - delta
    excess = abs(u) - HALF
    on = excess > ZERO
    miss = abs(u) - (ONE if on else ZERO)
    cost = w * abs(excess + excess)
    key = np.int32(np.int32(np.float32(cost).view(np.int32) & np.int32(-8)) | i).view(np.float32)
    return w * miss * miss, key, np.int32(u < ZERO), np.int32(on)


@scalar
def _order(a: np.float32, b: np.float32) -> tuple[np.float32, np.float32]:
    """A comparator of a sorting network: the smaller, the larger."""
    return (a if a < b else b), (b if a < b else a)


@inside
def _sort_costs(
    k0: np.float32,
    k1: np.float32,
    k2: np.float32,
    k3: np.float32,
    k4: np.float32,
    k5: np.float32,
    k6: np.float32,
    k7: np.float32,
) -> Costs:
    """Eight costs in ascending order, by the sorting network of Bose and Nelson (J. ACM 9, 1962, pp. 282-296).

    It compares the same pairs whatever the costs are, so that all lanes can do it at once. Its 19 comparators are the
    fewest possible for eight inputs (Knuth, The Art of Computer Programming 3, 5.3.4). Each vertical line is one; the
    smaller cost leaves it at the top:

        k0 ──┬───┬─────────┬────────────────────────
        k1 ──┴───┼─┬───┬───┼─┬───────┬──────────────
        k2 ──┬───┴─┼───┴───┼─┼─┬─────┼─────┬────────
        k3 ──┴─────┴───────┼─┼─┼─┬───┼─┬───┼─┬───┬──
        k4 ──┬───┬─────────┴─┼─┼─┼───┴─┼───┴─┼───┴──
        k5 ──┴───┼─┬───┬─────┴─┼─┼─────┼─────┴──────
        k6 ──┬───┴─┼───┴───────┴─┼─────┴────────────
        k7 ──┴─────┴─────────────┴──────────────────
    """
    k0, k1 = _order(k0, k1)
    k2, k3 = _order(k2, k3)
    k4, k5 = _order(k4, k5)
    k6, k7 = _order(k6, k7)

    k0, k2 = _order(k0, k2)
    k1, k3 = _order(k1, k3)
    k4, k6 = _order(k4, k6)
    k5, k7 = _order(k5, k7)

    k1, k2 = _order(k1, k2)
    k5, k6 = _order(k5, k6)
    # Now k0 … k3 and k4 … k7 are sorted.
    k0, k4 = _order(k0, k4)
    k1, k5 = _order(k1, k5)
    k2, k6 = _order(k2, k6)
    k3, k7 = _order(k3, k7)

    k1, k4 = _order(k1, k4)
    k3, k6 = _order(k3, k6)

    k2, k4 = _order(k2, k4)
    k3, k5 = _order(k3, k5)

    k3, k4 = _order(k3, k4)
    return k0, k1, k2, k3, k4, k5, k6, k7


@scalar
def _bit(key: np.float32) -> np.int32:
    """The bit of the value that a cost belongs to."""
    return np.int32(np.int32(1) << np.int32(np.float32(key).view(np.int32) & SEVEN))


@scalar
def _try(
    best: np.float32, chosen: np.int32, row: np.int32, mask: np.int32, cost: np.float32
) -> tuple[np.float32, np.int32]:
    """(best, chosen), or (cost, mask) if that is a grid point and cheaper."""
    word = GRID_BITS[np.uint32(row + (mask >> FIVE))]
    better = (((word >> (mask & np.int32(31))) & 1) != 0) & (cost < best)
    return (cost if better else best), (mask if better else chosen)


@kernel
def nearest(
    x: Float32, w: Float32, first: int, inverse: Float32, delta: np.float32, loss: Float32, choice: Int32
) -> None:
    """Nearest grid points of the group of values first .. first + 7 at a scale: loss in units of scale², and choice."""
    for lane in range(LANES):
        s = inverse[lane]
        l0, k0, s0, m0 = _coordinate(x[first, lane], w[first, lane], s, delta, np.int32(0))
        l1, k1, s1, m1 = _coordinate(x[first + 1, lane], w[first + 1, lane], s, delta, np.int32(1))
        l2, k2, s2, m2 = _coordinate(x[first + 2, lane], w[first + 2, lane], s, delta, np.int32(2))
        l3, k3, s3, m3 = _coordinate(x[first + 3, lane], w[first + 3, lane], s, delta, np.int32(3))
        l4, k4, s4, m4 = _coordinate(x[first + 4, lane], w[first + 4, lane], s, delta, np.int32(4))
        l5, k5, s5, m5 = _coordinate(x[first + 5, lane], w[first + 5, lane], s, delta, np.int32(5))
        l6, k6, s6, m6 = _coordinate(x[first + 6, lane], w[first + 6, lane], s, delta, np.int32(6))
        l7, k7, s7, m7 = _coordinate(x[first + 7, lane], w[first + 7, lane], s, delta, np.int32(7))
        sign = np.int32(s0 | s1 << 1 | s2 << 2 | s3 << 3 | s4 << 4 | s5 << 5 | s6 << 6 | s7 << 7)
        mask = np.int32(m0 | m1 << 1 | m2 << 2 | m3 << 3 | m4 << 4 | m5 << 5 | m6 << 6 | m7 << 7)
        least = l0 + l1 + l2 + l3 + l4 + l5 + l6 + l7
        # With all magnitudes zero it is a grid point whatever the signs, so that there is always one to fall back on.
        best = (k0 if m0 else ZERO) + (k1 if m1 else ZERO) + (k2 if m2 else ZERO) + (k3 if m3 else ZERO)
        best += (k4 if m4 else ZERO) + (k5 if m5 else ZERO) + (k6 if m6 else ZERO) + (k7 if m7 else ZERO)
        chosen = np.int32(0)
        k0, k1, k2, k3, k4, k5, k6, k7 = _sort_costs(k0, k1, k2, k3, k4, k5, k6, k7)
        b0, b1, b2, b3, b4, b5, b6 = _bit(k0), _bit(k1), _bit(k2), _bit(k3), _bit(k4), _bit(k5), _bit(k6)
        row = np.int32(sign << 3)
        best, chosen = _try(best, chosen, row, mask, ZERO)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0), k0)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b1), k1)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b1), k0 + k1)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b2), k2)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b2), k0 + k2)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b3), k3)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b1 ^ b2), k1 + k2)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b3), k0 + k3)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b1 ^ b2), k0 + k1 + k2)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b4), k4)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b1 ^ b3), k1 + k3)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b4), k0 + k4)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b5), k5)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b1 ^ b3), k0 + k1 + k3)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b2 ^ b3), k2 + k3)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b1 ^ b4), k1 + k4)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b6), k6)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b5), k0 + k5)
        best, chosen = _try(best, chosen, row, np.int32(mask ^ b0 ^ b2 ^ b3), k0 + k2 + k3)
        loss[lane] = least + best
        choice[lane] = np.int32(np.int32(sign << 8) | chosen)
