"""Transform: the reordering of rotary rows between a checkpoint and a GGUF file.

A checkpoint rotates the halves of a head, (i, i + d/2); architecture `llama` in GGUF rotates neighbours, (2i, 2i + 1):

    head of a checkpoint   a0 a1 a2 a3 | b0 b1 b2 b3      d = rope_dim = 8
    head of a GGUF file    a0 b0 a1 b1 a2 b2 a3 b3
"""

import numpy as np

from conform.core.errors import PlanError
from conform.core.quantizer import Float32

__all__ = ["permute_qk", "unpermute_qk"]


def permute_qk(rows: Float32, heads: int, rope_dim: int | None = None) -> Float32:
    """Rows of a checkpoint (heads·head_dim, cols) → rows of a GGUF file, head by head.

    Only the first `rope_dim` rows of each head rotate and move; None means all of them.
    """
    return _interleave(rows, heads, rope_dim, (2, -1))


def unpermute_qk(rows: Float32, heads: int, rope_dim: int | None = None) -> Float32:
    """The inverse of `permute_qk`."""
    return _interleave(rows, heads, rope_dim, (-1, 2))


def _interleave(rows: Float32, heads: int, rope_dim: int | None, split: tuple[int, int]) -> Float32:
    if rows.ndim != 2 or heads <= 0 or len(rows) % heads:
        raise PlanError(f"rotary rows of shape {rows.shape} cannot be split into {heads} heads")
    per_head = rows.reshape(heads, -1, rows.shape[1])
    rotary = per_head.shape[1] if rope_dim is None else rope_dim
    if rotary % 2 or rotary > per_head.shape[1]:
        raise PlanError(f"rope_dim = {rotary} is not an even number up to head_dim = {per_head.shape[1]}")
    moved = per_head[:, :rotary].reshape(heads, *split, rows.shape[1]).swapaxes(1, 2).reshape(heads, rotary, -1)
    return np.concatenate([moved, per_head[:, rotary:]], axis=1).reshape(rows.shape)
