"""Unigram: how often each token occurs, and what a model that knows nothing else would score."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conform.trainer.data.manifest import Shard
from conform.trainer.data.shards import open_shard

__all__ = ["token_counts", "unigram_loss"]

_AT_ONCE = 1 << 22  # tokens


def token_counts(folder: Path, shards: Sequence[Shard], dtype: str, vocab: int) -> NDArray[np.int64]:
    """(vocab,) occurrences of each id in those shards. Raises DataError for a shard that does not fit its record."""
    counts = np.zeros(vocab, np.int64)
    for shard in shards:
        tokens = open_shard(folder, shard, dtype)
        for start in range(0, len(tokens), _AT_ONCE):
            counts += np.bincount(tokens[start : start + _AT_ONCE], minlength=vocab)
    return counts


def unigram_loss(train: NDArray[np.int64], held_out: NDArray[np.int64]) -> float:
    """Cross-entropy of the held-out counts in nats per token under the train frequencies, one added to each count.

    Rounded to nine digits, so that no machine's logarithm shows in the manifest.
    """
    total = math.log(int(train.sum()) + len(train))
    used = np.flatnonzero(held_out)
    loss = math.fsum(int(held_out[i]) * (total - math.log(int(train[i]) + 1)) for i in used)
    return float(f"{loss / int(held_out.sum()):.9g}")
