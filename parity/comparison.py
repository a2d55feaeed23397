"""Comparison: what the logits of runtime and reference say of each watched position; the logits are not kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from conform.core.quantizer import Float32
from conform.parity.reference.metrics import Closeness, Float64, closeness, divergences, negative_log_likelihoods

__all__ = ["BestLogits", "Comparison", "Logits", "Question", "compare", "joined"]


@dataclass(frozen=True, slots=True)
class Logits:
    """The logits of some positions, (rows, vocab) each.

    `decoded` is the reference over the decoded file, `noisy` the same in float32 throughout, `perturbed` the same with
    activations that are flipped on purpose (None where none are quantised); `runtime` is what the runtime's hidden
    states give through the file's output matrix, or its own logits where it shows no hidden states.
    """

    decoded: Float32
    noisy: Float32
    perturbed: Float32 | None
    runtime: Float32


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of each row, (rows,): the token behind it, and the token and logit that the runtime calls best."""

    following: NDArray[np.int64]
    best: NDArray[np.int64]
    best_logit: Float64


@dataclass(frozen=True, slots=True)
class BestLogits:
    """The runtime's best token by its own hidden state, beside the one that it claims, (rows,) each."""

    claimed: NDArray[np.int64]
    found: NDArray[np.int64]
    error: Float64
    """How far the logit that it claims is from that token's logit."""
    behind: Float64
    """How far that token's logit lies behind the best one."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every figure has one value for each row; `runtime`, `noise` and `flips` are measured from the decoded file's."""

    runtime: Closeness
    noise: Closeness
    flips: Closeness | None
    kl: Float64
    """KL(decoded file || runtime) in nats."""
    likelihoods: Mapping[str, Float64]
    """Negative log-likelihood of the following token by "decoded", "noisy" and "runtime", in nats."""
    reference_best: NDArray[np.int64]
    reference_gap: Float64
    """How far the following token lies behind the reference's best."""
    best: BestLogits


def compare(logits: Logits, question: Question) -> Comparison:
    """The figures of these rows."""
    rows = np.arange(len(question.following))
    reference_best = logits.decoded.argmax(axis=1)
    gap = logits.decoded[rows, reference_best] - logits.decoded[rows, question.following]
    return Comparison(
        runtime=closeness(logits.decoded, logits.runtime),
        noise=closeness(logits.decoded, logits.noisy),
        flips=None if logits.perturbed is None else closeness(logits.decoded, logits.perturbed),
        kl=divergences(logits.decoded, logits.runtime)[0],
        likelihoods={
            name: negative_log_likelihoods(values, question.following)
            for name, values in (("decoded", logits.decoded), ("noisy", logits.noisy), ("runtime", logits.runtime))
        },
        reference_best=reference_best,
        reference_gap=gap.astype(np.float64),
        best=_best_logits(logits.runtime, question),
    )


def joined(parts: Sequence[Comparison]) -> Comparison:
    """The figures of all parts, in order."""
    return Comparison(
        runtime=_joined([part.runtime for part in parts]),
        noise=_joined([part.noise for part in parts]),
        flips=_joined(flips) if (flips := [part.flips for part in parts if part.flips is not None]) else None,
        kl=np.concatenate([part.kl for part in parts]),
        likelihoods={name: np.concatenate([part.likelihoods[name] for part in parts]) for name in parts[0].likelihoods},
        reference_best=np.concatenate([part.reference_best for part in parts]),
        reference_gap=np.concatenate([part.reference_gap for part in parts]),
        best=BestLogits(
            np.concatenate([part.best.claimed for part in parts]),
            np.concatenate([part.best.found for part in parts]),
            np.concatenate([part.best.error for part in parts]),
            np.concatenate([part.best.behind for part in parts]),
        ),
    )


def _best_logits(runtime: Float32, question: Question) -> BestLogits:
    rows = np.arange(len(runtime))
    own = runtime[rows, question.best]
    return BestLogits(
        claimed=question.best,
        found=runtime.argmax(axis=1),
        error=np.abs(question.best_logit - own),
        behind=(runtime.max(axis=1) - own).astype(np.float64),
    )


def _joined(parts: Iterable[Closeness]) -> Closeness:
    parts = list(parts)
    return Closeness(np.concatenate([part.nmse for part in parts]), np.concatenate([part.max_abs for part in parts]))
