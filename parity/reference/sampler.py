"""Sampler: seeded sampling, bit for bit as Go runtimes like bitnet-go do it, in float32.

xorshift64* (Vigna 2014, arXiv:1402.6246) gives one uniform number per sampled step, none when greedy.
"""

from dataclasses import dataclass

import numpy as np

from conform.core.quantizer import Float32
from conform.core.runtime import Sampling

__all__ = ["Draw", "Xorshift64Star", "choose", "nucleus", "uncertain_temperature"]

# How likely the likeliest token is at the uncertain temperature.
_UNCERTAIN = 1 / 3
_MASK = (1 << 64) - 1
_SEED_MIX = 0x9E3779B97F4A7C15
_MULTIPLIER = 2685821657736338717


class Xorshift64Star:
    """The generator; the same seed gives the same numbers as in Go."""

    def __init__(self, seed: int) -> None:
        self._state = (seed & _MASK) ^ _SEED_MIX or 1

    def uniform(self) -> np.float32:
        """The next number in [0, 1], rounded to float32 (so that 1 itself can occur)."""
        x = self._state
        x ^= x >> 12
        x = (x ^ (x << 25)) & _MASK
        x ^= x >> 27
        self._state = x
        return np.float32(((x * _MULTIPLIER & _MASK) >> 11) * 2.0**-53)


@dataclass(frozen=True, slots=True)
class Draw:
    """One chosen token. `margin` is how far the draw was, in probability, from choosing another; inf when greedy."""

    token: int
    margin: float


def choose(logits: Float32, sampling: Sampling, generator: Xorshift64Star) -> Draw:
    """The next token, from logits (vocab,); draws one number from the generator unless greedy."""
    if sampling.temperature <= 0:
        return Draw(int(np.argmax(logits)), float("inf"))
    scaled = (logits / np.float32(sampling.temperature)).astype(np.float32)
    # A stable sort keeps the earlier id on ties.
    ids = np.argsort(-scaled, kind="stable")[: sampling.top_k] if sampling.top_k > 0 else np.arange(len(scaled))
    probabilities = _softmax(scaled[ids])
    if _top_p(sampling) < 1:
        ids, probabilities = _cut(ids, probabilities, _top_p(sampling))
    return _drawn(ids, probabilities, generator.uniform())


def nucleus(logits: Float32, sampling: Sampling, slack: float = 0.0) -> frozenset[int]:
    """The smallest set of likeliest tokens whose probability reaches top_p + slack, whoever draws from it."""
    probabilities = _softmax((logits / np.float32(sampling.temperature)).astype(np.float32))
    if _top_p(sampling) + slack >= 1:
        return frozenset(range(len(probabilities)))
    ids, _ = _cut(np.arange(len(probabilities)), probabilities, _top_p(sampling) + slack)
    return frozenset(int(token) for token in ids)


def uncertain_temperature(logits: Float32) -> float:
    """The temperature at which the likeliest token has a probability of about a third.

    A model that is certain draws the same token whatever the sampler does, and so would hide an option that is ignored.
    """
    low, high = 1e-3, 1e3
    for _ in range(40):
        middle = (low * high) ** 0.5
        shifted = (logits.astype(np.float64) - logits.max()) / middle
        if 1 / np.exp(shifted).sum() > _UNCERTAIN:
            low = middle
        else:
            high = middle
    return high


def _top_p(sampling: Sampling) -> float:
    return sampling.top_p if 0 < sampling.top_p <= 1 else 1.0


def _softmax(scaled: Float32) -> Float32:
    # exp in float64 cast to float32, a sequential float32 sum, times the reciprocal: as Go computes it.
    shifted = (scaled - scaled.max()).astype(np.float32)
    weights = np.exp(shifted.astype(np.float64)).astype(np.float32)
    total = np.cumsum(weights, dtype=np.float32)[-1]
    return np.asarray(weights * (np.float32(1) / total), dtype=np.float32)


def _cut(ids: np.ndarray, probabilities: Float32, top_p: float) -> tuple[np.ndarray, Float32]:
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order], dtype=np.float32)
    kept = order[: int(np.searchsorted(cumulative, np.float32(top_p), side="left")) + 1]
    total = np.cumsum(probabilities[kept], dtype=np.float32)[-1]
    return ids[kept], (probabilities[kept] * (np.float32(1) / total)).astype(np.float32)


def _drawn(ids: np.ndarray, probabilities: Float32, uniform: np.float32) -> Draw:
    cumulative = np.cumsum(probabilities, dtype=np.float32)
    place = min(int(np.searchsorted(cumulative, uniform, side="left")), len(ids) - 1)
    below = float(uniform) - (float(cumulative[place - 1]) if place else -1.0)
    above = float(cumulative[place]) - float(uniform) if place < len(ids) - 1 else 1.0
    return Draw(int(ids[place]), min(below, above))
