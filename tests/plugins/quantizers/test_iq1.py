"""iq1_s, iq1_m: what their bytes mean, and how near the search comes to looking at every grid point."""

import numpy as np
import pytest

from conform.plugins.quantizers.iq1 import IQ1M, IQ1S
from conform.plugins.quantizers.search.grids import grid

GRID = grid("iq1").astype(np.float32)
TWO = b"\x00\x40"  # float16 2.0


def _words(*words):
    return b"".join(word.to_bytes(2, "little") for word in words)


def test_iq1_s_decodes_points_scales_and_shifts():
    # Points 2047, 1, 256 and 0 of the first block at scale 3 and shift -1/8; all else is point 0, scale 0, +1/8.
    low = bytes([255, 1, 0, 0]) + bytes(28)
    high = _words(0b111 | 0b000 << 3 | 0b001 << 6 | 3 << 12 | 1 << 15, *[0] * 7)
    values = IQ1S().dequantize(np.frombuffer(TWO + low + high, np.uint8), (256,)).reshape(32, 8)
    np.testing.assert_array_equal(values[:4], 2 * 7 * (GRID[[2047, 1, 256, 0]] - 0.125))
    np.testing.assert_array_equal(values[4:], np.full((28, 8), 2 * (-1 + 0.125)))


def test_iq1_m_decodes_points_scales_shifts_and_the_scattered_d():
    low = bytes([255, 1, 7, 0]) + bytes(28)
    high = bytes([0b0000_1111, 0b1010_0001]) + bytes(14)
    # d is 0x4321: its lowest nibble stands in the first word.
    scales = _words(0x1000 | 5 | 7 << 3, 0x2000, 0x3000, 0x4000 | 2 << 9)
    values = IQ1M().dequantize(np.frombuffer(low + high + scales, np.uint8), (256,)).reshape(32, 8)
    d = np.array(0x4321, np.uint16).view(np.float16).astype(np.float32)
    np.testing.assert_array_equal(values[0], d * 11 * (GRID[2047] - np.float32(0.125)))
    np.testing.assert_array_equal(values[1], d * 11 * (GRID[1] + np.float32(0.125)))
    np.testing.assert_array_equal(values[2], d * 15 * (GRID[7 | 1 << 8] + np.float32(0.125)))
    np.testing.assert_array_equal(values[3], d * 15 * (GRID[2 << 8] - np.float32(0.125)))
    np.testing.assert_array_equal(values[30], d * 5 * (GRID[0] + np.float32(0.125)))


@pytest.mark.parametrize("quantizer", [IQ1S(), IQ1M()], ids=lambda q: q.name)
def test_values_that_can_be_held_are_found(quantizer):
    rng = np.random.default_rng(2)
    odd = 2 * rng.integers(2, 8, (8, 1, 1)) + 1
    shift = rng.choice([-0.125, 0.125], (8, 1, 1))
    values = (0.5 * odd * (GRID[rng.integers(0, 2048, (8, 4))] + shift)).astype(np.float32).reshape(1, 256)
    decoded = quantizer.with_effort("best").dequantize(quantizer.quantize(values), values.shape)
    assert ((values - decoded) ** 2).sum() < 0.02 * (values**2).sum()


def _nearest(x, w, scale, delta):
    """(loss, signs and magnitudes) of the search, for groups x, w (8, 64) at one scale."""
    from conform.plugins.quantizers.kernels.iq1_nearest import nearest

    loss, choice = np.empty(64, np.float32), np.empty(64, np.int32)
    nearest(x, w, 0, np.full(64, 1 / scale, np.float32), np.float32(delta), loss, choice)
    return loss, choice


@pytest.mark.parametrize(("spread", "margin"), [(0.0, 1.001), (1.5, 1.015)])
@pytest.mark.parametrize("delta", [0.125, -0.125])
def test_the_search_nearly_finds_the_nearest_grid_points(spread, margin, delta):
    rng = np.random.default_rng(4)
    found = exact = 0.0
    for scale in (0.8, 1.3, 2.0):
        x = rng.standard_normal((8, 64)).astype(np.float32)
        w = np.exp(spread * rng.standard_normal((8, 64))).astype(np.float32)
        miss = (x / np.float32(scale)).T[:, None, :] - (GRID + np.float32(delta))
        every = (w.T[:, None, :] * miss**2).sum(axis=2).min(axis=1)
        loss, _ = _nearest(x, w, scale, delta)
        assert (loss >= every * np.float32(0.9999)).all()
        found, exact = found + loss.sum(), exact + every.sum()
    assert found <= margin * exact


def test_the_loss_is_that_of_the_point_chosen():
    from conform.plugins.quantizers.search.iq1_grid import POINTS

    rng = np.random.default_rng(6)
    x, w = rng.standard_normal((2, 8, 64)).astype(np.float32)
    w = np.abs(w)
    loss, choice = _nearest(x, w, 1.2, 0.125)
    points = GRID[POINTS[choice]].T
    np.testing.assert_allclose((w * (x / np.float32(1.2) - points - 0.125) ** 2).sum(axis=0), loss, rtol=2e-5)
    assert (POINTS[choice] >= 0).all()


def test_every_group_has_a_point_whatever_its_values():
    x = np.zeros((8, 64), np.float32)
    x[:, 1] = 1e30
    x[0, 2] = -1e30
    w = np.ones((8, 64), np.float32)
    from conform.plugins.quantizers.search.iq1_grid import POINTS

    for scale in (1e-3, 1.0, 1e3):
        _, choice = _nearest(x, w, scale, -0.125)
        assert (POINTS[choice] >= 0).all()
