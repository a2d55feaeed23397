"""Reference: the forward pass in PyTorch, over a checkpoint or over a decoded GGUF file.

Layer by layer over all sequences at once, so that each weight is read and decoded once and only one layer is held.
In `double` arithmetic every product sums in float64 and rounds to float32, which leaves no freedom of order; `single`
does everything in float32. The difference between the two is the noise below which no runtime can be judged.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from conform.contract.inventory import Role
from conform.core.errors import GGUFError
from conform.core.quantizer import Float32
from conform.parity.reference.dimensions import Dimensions
from conform.parity.reference.linear import Arithmetic, Linear
from conform.parity.reference.weights import Weights

__all__ = ["Reference", "Watched"]

Watched = Callable[[int, str, Tensor], None]
"""Called with (layer, name, (positions, width)) for each intermediate; attention weights come sequence by sequence."""

# Query rows whose scores are held at a time.
_QUERIES = 256


def _ignore(_layer: int, _name: str, _values: Tensor) -> None:
    """Watches nothing."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A model in PyTorch."""

    dimensions: Dimensions
    weights: Weights
    arithmetic: Arithmetic = "double"

    def hidden(self, sequences: Sequence[Sequence[int]], watched: Watched = _ignore) -> list[Float32]:
        """The final hidden states after the output norm, (positions, hidden) for each sequence of token ids.

        `watched` sees the intermediates of all of them, one sequence after the other.
        """
        if not sequences:
            return []
        with torch.inference_mode():
            lengths = [len(ids) for ids in sequences]
            state = self.weights.embedding([token for ids in sequences for token in ids]).float()
            for layer in range(self.dimensions.layers):
                state = _Block(self, layer, lengths, watched).apply(state)
            norm = _required(self.weights.norm("output_norm"), "output_norm")
            return [part.numpy() for part in torch.split(self.normalised(state, norm), lengths)]

    def logits(self, hidden: Float32) -> Float32:
        """(positions, hidden) → (positions, vocab)."""
        with torch.inference_mode():
            values: Float32 = self.weights.output().apply(torch.from_numpy(np.array(hidden)), self.arithmetic).numpy()
            return values

    def normalised(self, values: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm over the last axis; the mean square is summed in float64 unless arithmetic is single."""
        wide = values.double() if self.arithmetic != "single" else values
        inverse = (1 / (wide.square().mean(dim=-1, keepdim=True) + self.dimensions.norm_eps).sqrt()).float()
        return values * inverse * weight


class _Block:
    """One transformer block with its weights, over the positions of all sequences, one after the other."""

    def __init__(self, model: Reference, layer: int, lengths: Sequence[int], watched: Watched) -> None:
        self._model = model
        self._layer = layer
        self._lengths = list(lengths)
        self._watched = watched
        self._linears: dict[Role, Linear] = {
            role: model.weights.linear(role, layer)
            for role in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        }
        self._norms: dict[Role, Tensor | None] = {
            role: model.weights.norm(role, layer) for role in ("attn_norm", "ffn_norm", "attn_sub_norm", "ffn_sub_norm")
        }

    def apply(self, state: Tensor) -> Tensor:
        """(positions, hidden) → (positions, hidden)."""
        state = state + self._attention(state)
        self._show("x_post_attn", state)
        state = state + self._feed_forward(state)
        self._show("x_post_ffn", state)
        return state

    def _attention(self, state: Tensor) -> Tensor:
        normed = self._norm("attn_norm", state)
        self._show("attn_norm", normed)
        queries, keys, values = (self._linear(role, normed) for role in ("attn_q", "attn_k", "attn_v"))
        for name, vector in (("Qcur", queries), ("Kcur", keys), ("Vcur", values)):
            self._show(name, vector)
        per_sequence = zip(*(torch.split(rows, self._lengths) for rows in (queries, keys, values)), strict=True)
        mixed = torch.cat([self._mixed(*rows) for rows in per_sequence])
        if self._norms["attn_sub_norm"] is not None:
            mixed = self._norm("attn_sub_norm", mixed)
        self._show("attn_sub_norm", mixed)
        projected = self._linear("attn_output", mixed)
        self._show("attn_o_out", projected)
        return projected

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Causal attention over one sequence: (positions, heads · head_dim) of each → the same."""
        sizes = self._model.dimensions
        queries = _rotated(_per_head(queries, sizes.heads), sizes)
        keys, values = _rotated(_per_head(keys, sizes.kv_heads), sizes), _per_head(values, sizes.kv_heads)
        heads, positions, head_dim = queries.shape
        shared = heads // len(keys)
        keys, values = keys.repeat_interleave(shared, dim=0), values.repeat_interleave(shared, dim=0)
        if self._model.arithmetic != "single":
            keys, values = keys.double(), values.double()
        scale = torch.tensor(1 / math.sqrt(head_dim), dtype=torch.float32)
        blocks = []
        for start in range(0, positions, _QUERIES):
            rows = queries[:, start : start + _QUERIES].to(keys.dtype)
            end = start + rows.shape[1]
            scores = (rows @ keys[:, :end].transpose(1, 2)).float() * scale
            later = torch.ones(rows.shape[1], end, dtype=torch.bool).triu(start + 1)
            weights = _softmax(scores.masked_fill(later, -math.inf))
            if end == positions:
                self._show_softmax(weights)
            blocks.append((weights.to(values.dtype) @ values[:, :end]).float())
        return torch.cat(blocks, dim=1).transpose(0, 1).reshape(positions, heads * head_dim)

    def _show(self, name: str, values: Tensor) -> None:
        if self._watched is not _ignore:
            self._watched(self._layer, name, values)

    def _show_softmax(self, weights: Tensor) -> None:
        for head, rows in enumerate(weights):
            self._show(f"attn_softmax_h{head}", rows)

    def _feed_forward(self, state: Tensor) -> Tensor:
        normed = self._norm("ffn_norm", state)
        gate, up = self._linear("ffn_gate", normed), self._linear("ffn_up", normed)
        if self._model.dimensions.activation == "silu":
            active = gate / (1 + torch.exp(-gate.double()).float()) * up
        else:
            active = gate.clamp(min=0).square() * up
        self._show("ffn_act", active)
        if self._norms["ffn_sub_norm"] is not None:
            active = self._norm("ffn_sub_norm", active)
        self._show("ffn_sub_norm", active)
        return self._linear("ffn_down", active)

    def _linear(self, role: Role, values: Tensor) -> Tensor:
        return self._linears[role].apply(values, self._model.arithmetic)

    def _norm(self, role: Role, values: Tensor) -> Tensor:
        return self._model.normalised(values, _required(self._norms[role], f"blk.{self._layer}.{role}"))


def _required(weight: Tensor | None, name: str) -> Tensor:
    if weight is None:
        raise GGUFError(f"tensor {name}.weight is missing")
    return weight


def _per_head(rows: Tensor, heads: int) -> Tensor:
    """(positions, heads · head_dim) → (heads, positions, head_dim)."""
    return rows.reshape(len(rows), heads, -1).transpose(0, 1)


def _softmax(scores: Tensor) -> Tensor:
    shifted = scores - scores.amax(dim=-1, keepdim=True)
    weights = torch.exp(shifted.double()).float()
    # One after another in float32, as a plain loop adds them: the last bit of torch's pairwise sum differs, and it
    # decides the int8 level of some activations.
    total = torch.from_numpy(np.add.accumulate(weights.numpy(), axis=-1)[..., -1:].copy())
    return weights * (1 / total)


def _rotated(heads: Tensor, sizes: Dimensions) -> Tensor:
    """Rotary embedding of (heads, positions, head_dim); angles in float64, sine and cosine applied in float32."""
    rotary = 2 * len(sizes.rope.frequencies)
    frequencies = torch.tensor(sizes.rope.frequencies, dtype=torch.float64)
    angles = torch.arange(heads.shape[1], dtype=torch.float64)[:, None] * frequencies
    cosine, sine = ((wave * sizes.rope.magnitude).float() for wave in (angles.cos(), angles.sin()))
    rotated = heads.clone()
    if sizes.rope_pairing == "adjacent":
        first, second = slice(0, rotary, 2), slice(1, rotary, 2)
    else:
        first, second = slice(0, rotary // 2), slice(rotary // 2, rotary)
    rotated[..., first] = heads[..., first] * cosine - heads[..., second] * sine
    rotated[..., second] = heads[..., first] * sine + heads[..., second] * cosine
    return rotated
