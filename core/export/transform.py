"""Transform: what is done to a tensor's values between a checkpoint and the quantizer.

A ternary layer is stored as what it computes with, not as its latent weights; one whose stored weights are ternary
already is only looked at. And a checkpoint rotates the halves of a
head, (i, i + d/2), where architecture `llama` in GGUF rotates neighbours, (2i, 2i + 1):

    head of a checkpoint   a0 a1 a2 a3 | b0 b1 b2 b3      d = rope_dim = 8
    head of a GGUF file    a0 b0 a1 b1 a2 b2 a3 b3
"""

from dataclasses import dataclass

import numpy as np

from conform.contract.inventory import TensorSpec
from conform.contract.rope import frequency_factors
from conform.contract.spec import ModelSpec
from conform.core.errors import PlanError
from conform.core.i2_s.ternary import effective, stored_ternary
from conform.core.quantizer import Float32

__all__ = ["Rotary", "Transform", "derived_values", "permute_qk", "transform_of"]


@dataclass(frozen=True, slots=True)
class Rotary:
    """How rotary rows are cut: into so many heads, of which the first `rope_dim` rows each rotate."""

    heads: int
    rope_dim: int


@dataclass(frozen=True, slots=True)
class Transform:
    """First the values are ternarised, then rotary rows are interleaved; either may be left out.

    `stored_ternary` changes nothing, but refuses values that are not ternary already.
    As text it is "none", "permute", "ternarise" or "ternarise, permute".
    """

    ternarise: bool = False
    permute: Rotary | None = None
    stored_ternary: bool = False

    def __str__(self) -> str:
        steps = ["ternarise"] * self.ternarise + ["permute"] * (self.permute is not None)
        return ", ".join(steps) or "none"

    def apply(self, values: Float32) -> Float32:
        """The values that are stored, C-contiguous, in the same shape; the input is untouched.

        Raises QuantizeError for NaN and infinity that are to be ternarised and for values that should be ternary and
        are not, PlanError for rows that cannot be cut.
        """
        if self.stored_ternary:
            stored_ternary(values)
        if self.ternarise:
            values = effective(values)
        if self.permute is not None:
            values = permute_qk(values, self.permute.heads, self.permute.rope_dim)
        return np.ascontiguousarray(values)


def transform_of(model: ModelSpec, spec: TensorSpec) -> Transform:
    """What an export does to that tensor of the model."""
    heads = {"attn_q": model.heads, "attn_k": model.kv_heads}.get(spec.role)
    # Only architecture llama rotates neighbours; bitnet-b1.58 rotates halves, as the checkpoint does.
    permute = Rotary(heads, model.rope_dim) if heads and model.architecture == "llama" else None
    linear = model.linear if spec.storage_class == "linear" else "dense"
    return Transform(linear == "ternary", permute, linear == "ternary-stored")


def derived_values(model: ModelSpec, spec: TensorSpec) -> Float32:
    """The values of a tensor that is in no checkpoint: the factors by which rotary frequencies are divided."""
    assert spec.derived
    assert model.rope_scaling is not None
    return np.array(frequency_factors(model.rope_base, model.rope_dim, model.rope_scaling), np.float32)


def permute_qk(rows: Float32, heads: int, rope_dim: int | None = None) -> Float32:
    """Rows of a checkpoint (heads·head_dim, cols) → rows of a GGUF file, head by head.

    Only the first `rope_dim` rows of each head rotate and move; None means all of them.
    """
    if rows.ndim != 2 or heads <= 0 or len(rows) % heads:
        raise PlanError(f"rotary rows of shape {rows.shape} cannot be split into {heads} heads")
    per_head = rows.reshape(heads, -1, rows.shape[1])
    rotary = per_head.shape[1] if rope_dim is None else rope_dim
    if rotary % 2 or rotary > per_head.shape[1]:
        raise PlanError(f"rope_dim = {rotary} is not an even number up to head_dim = {per_head.shape[1]}")
    halves = per_head[:, :rotary].reshape(heads, 2, -1, rows.shape[1])
    interleaved = halves.swapaxes(1, 2).reshape(heads, rotary, -1)
    return np.concatenate([interleaved, per_head[:, rotary:]], axis=1).reshape(rows.shape)
