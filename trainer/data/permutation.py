"""Permutation: a keyed shuffle of range(n) that is computed, never stored.

A Feistel network (Luby and Rackoff, 1988) permutes the smallest power of two that is not below n; values outside
range(n) are sent through it again until they fall inside ("cycle walking", Black and Rogaway, 2002).
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["permute"]

_ROUNDS = 8
_UInt64 = NDArray[np.uint64]


def permute(indices: NDArray[np.int64], n: int, key: tuple[int, int]) -> NDArray[np.int64]:
    """The places of `indices` (all in range(n)) in the shuffle of range(n) that belongs to `key`."""
    if n < 2:
        return np.zeros_like(indices)
    bits = (n - 1).bit_length()
    round_keys = _round_keys(key)
    values = _feistel(indices.astype(np.uint64), bits, round_keys)
    while (outside := values >= n).any():
        values[outside] = _feistel(values[outside], bits, round_keys)
    return values.astype(np.int64)


def _feistel(values: _UInt64, bits: int, round_keys: _UInt64) -> _UInt64:
    low_bits = np.uint64((bits + 1) // 2)
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    high_mask = (np.uint64(1) << np.uint64(bits // 2)) - np.uint64(1)
    high, low = values >> low_bits, values & low_mask
    # The halves differ by one bit when `bits` is odd, so they take turns instead of changing places.
    for number, round_key in enumerate(round_keys):
        if number % 2:
            low ^= _mix(high ^ round_key) & low_mask
        else:
            high ^= _mix(low ^ round_key) & high_mask
    return (high << low_bits) | low


def _mix(values: _UInt64) -> _UInt64:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _round_keys(key: tuple[int, int]) -> _UInt64:
    state = np.array([part & 0xFFFF_FFFF_FFFF_FFFF for part in key], np.uint64)
    start = _mix(_mix(state[:1] + np.uint64(0x9E3779B97F4A7C15)) + state[1:])
    return _mix(start + np.arange(1, _ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
