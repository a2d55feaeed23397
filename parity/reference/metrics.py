"""Metrics: how far two sets of logits lie apart. Sums run over the vocabulary, averages over positions, never mixed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Float32

__all__ = [
    "Closeness",
    "Divergence",
    "average",
    "closeness",
    "divergences",
    "log_softmax",
    "negative_log_likelihoods",
    "summary",
]

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Closeness:
    """Distance between a reference and a subject, row by row: NMSE (rows,) and largest absolute difference (rows,)."""

    nmse: Float64
    max_abs: Float64


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(reference || subject) in nats per position, over `positions` rows."""

    mean: float
    p99: float
    largest: float
    positions: int
    same_top: float


def closeness(reference: Float32, subject: Float32) -> Closeness:
    """Compare (rows, width). NMSE is the mean squared error of a row over the variance of the reference's row.

    A value that is not finite on either side makes both figures of its row infinite.
    """
    expected = np.asarray(reference, dtype=np.float64)
    found = np.asarray(subject, dtype=np.float64)
    if expected.shape != found.shape or expected.ndim != 2 or expected.shape[1] == 0:
        raise ValueError(f"shapes {expected.shape} and {found.shape} cannot be compared row by row")
    with np.errstate(invalid="ignore"):
        difference = np.abs(expected - found)
        nmse = np.square(difference).mean(axis=1) / np.maximum(expected.var(axis=1), np.finfo(np.float64).tiny)
        max_abs = difference.max(axis=1)
    bad = ~(np.isfinite(expected).all(axis=1) & np.isfinite(found).all(axis=1))
    nmse[bad], max_abs[bad] = np.inf, np.inf
    return Closeness(nmse, max_abs)


def log_softmax(logits: Float32) -> Float64:
    """Log probabilities along the last axis, in float64."""
    wide = np.asarray(logits, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # what is not finite stays so; its position then counts as infinitely far
        shifted = wide - wide.max(axis=-1, keepdims=True)
        normalised: Float64 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised


def divergences(reference: Float32, subject: Float32) -> tuple[Float64, NDArray[np.bool_]]:
    """KL(reference || subject) in nats at each position of (positions, vocab) logits, and where both agree on the best.

    Summed over the vocabulary. Averaging over it instead would divide by its size, and pass a broken model.
    """
    expected, found = log_softmax(reference), log_softmax(subject)
    with np.errstate(invalid="ignore"):
        kl = (np.exp(expected) * (expected - found)).sum(axis=-1)
    kl = np.where(np.isfinite(kl), np.maximum(kl, 0.0), np.inf)
    return kl, expected.argmax(axis=-1) == found.argmax(axis=-1)


def summary(kl: Float64, same_top: NDArray[np.bool_]) -> Divergence:
    """The figures of many positions; no position at all is an infinite divergence."""
    if len(kl) == 0:
        return Divergence(float("inf"), float("inf"), float("inf"), 0, 0.0)
    p99 = float(np.quantile(kl, 0.99, method="higher"))
    return Divergence(float(kl.mean()), p99, float(kl.max()), len(kl), float(same_top.mean()))


def negative_log_likelihoods(logits: Float32, following: NDArray[np.integer]) -> Float64:
    """In nats, of the token that follows each position of (positions, vocab) logits: (positions,)."""
    log_likelihoods: Float64 = log_softmax(logits)[np.arange(len(following)), following]
    return -log_likelihoods


def average(nats: Float64) -> float:
    """The mean over positions; no position at all is infinitely unlikely."""
    return float(nats.mean()) if len(nats) else float("inf")
