"""Model: a Llama-style decoder, exactly the tensors of its contract and nothing else.

Parameters are float32 masters; matrix products run in `compute_dtype`, and every parameter is cast where it is used.
So the module computes the same, bit for bit, alone and under FSDP2, whose own casts then change nothing.
Shapes: B sequences, T positions, H hidden width, D head dimension, V vocabulary.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.utils.checkpoint import checkpoint

from conform.contract.rope import rope_of_model
from conform.contract.spec import ModelSpec
from conform.trainer.model.loss import total_cross_entropy
from conform.trainer.model.ternary import BitLinear, StoredBitLinear

__all__ = ["Attention", "Block", "FeedForward", "Llama", "RMSNorm"]


class Llama(nn.Module):
    """The model of a contract; its parameters are named as in a Hugging Face Llama checkpoint.

    `recompute` trades compute for memory: each block keeps its input only and runs again in the backward pass.
    `loss_chunk` is the number of positions that have logits at once while training; 0 means all.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        compute_dtype: torch.dtype = torch.float32,
        recompute: bool = False,
        loss_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.compute_dtype = compute_dtype
        self.loss_chunk = loss_chunk
        self.model = _Decoder(spec, recompute)
        if not spec.tied_embeddings:
            self.lm_head = nn.Linear(spec.hidden, spec.vocab, bias=False)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """tokens (B, T) → logits (B, T, V) float32; with targets (B, T), their total loss in nats, float64 scalar."""
        x = self.model(tokens, self.compute_dtype)
        output = self.model.embed_tokens if self.spec.tied_embeddings else self.lm_head
        if targets is None:
            return F.linear(x, output.weight.to(x.dtype)).float()
        return total_cross_entropy(x.flatten(0, 1), output.weight, targets.flatten(), self.loss_chunk)

    @torch.no_grad()
    def initial(self, name: str, seed: int) -> Tensor:
        """The initial value of one parameter, float32: a function of its name, the spec and the seed alone."""
        shape = self.get_parameter(name).shape
        if len(shape) == 1:
            return torch.ones(shape)
        generator = torch.Generator().manual_seed(_name_seed(name, seed))
        residual = name.endswith(("o_proj.weight", "down_proj.weight"))
        deviation = 0.02 / math.sqrt(2 * self.spec.layers) if residual else 0.02
        return torch.empty(shape).normal_(0, deviation, generator=generator)


class _Decoder(nn.Module):
    def __init__(self, spec: ModelSpec, recompute: bool) -> None:
        super().__init__()
        self.spec = spec
        self.embed_tokens = nn.Embedding(spec.vocab, spec.hidden)
        self.layers = nn.ModuleList(Block(spec, recompute) for _ in range(spec.layers))
        self.norm = RMSNorm(spec.hidden, spec.norm_eps)

    def forward(self, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.embed_tokens(tokens).to(dtype)
        rotation = rotary_table(self.spec, tokens.shape[1], tokens.device)
        for block in self.layers:
            x = block(x, rotation)
        result: Tensor = self.norm(x)
        return result


class Block(nn.Module):
    """One layer: attention, then the feed-forward network, each on a normalised copy of the residual stream."""

    def __init__(self, spec: ModelSpec, recompute: bool) -> None:
        super().__init__()
        self.recompute = recompute
        self.input_layernorm = RMSNorm(spec.hidden, spec.norm_eps)
        self.self_attn = Attention(spec)
        self.post_attention_layernorm = RMSNorm(spec.hidden, spec.norm_eps)
        self.mlp = FeedForward(spec)

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """x (B, T, H) → (B, T, H)."""
        if not (self.recompute and torch.is_grad_enabled()):
            return self._compute(x, rotation)
        # Inside the block, not around it, so that FSDP2 gathers the weights once for both passes; no dropout, no RNG.
        result: Tensor = checkpoint(self._compute, x, rotation, use_reentrant=False, preserve_rng_state=False)
        return result

    def _compute(self, x: Tensor, rotation: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotation)
        result: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return result


class Attention(nn.Module):
    """Causal attention with rotary positions; each key head serves heads / kv_heads query heads."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec
        self.q_proj = _linear(spec, spec.hidden, spec.q_width)
        self.k_proj = _linear(spec, spec.hidden, spec.kv_width)
        self.v_proj = _linear(spec, spec.hidden, spec.kv_width)
        self.o_proj = _linear(spec, spec.q_width, spec.hidden)
        self.attn_sub_norm = RMSNorm(spec.q_width, spec.norm_eps) if spec.sub_norms else None

    def forward(self, x: Tensor, rotation: Tensor) -> Tensor:
        """x (B, T, H) → (B, T, H)."""
        shape = (*x.shape[:2], -1, self.spec.head_dim)
        q = rotate(self.q_proj(x).view(shape).transpose(1, 2), rotation)
        k = rotate(self.k_proj(x).view(shape).transpose(1, 2), rotation)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=k.shape[1] != q.shape[1])
        y = y.transpose(1, 2).flatten(2)
        if self.attn_sub_norm is not None:
            y = self.attn_sub_norm(y)
        result: Tensor = self.o_proj(y)
        return result


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)); with squared ReLU in place of SiLU for bitnet-b1.58."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.gate_proj = _linear(spec, spec.hidden, spec.ffn)
        self.up_proj = _linear(spec, spec.hidden, spec.ffn)
        self.down_proj = _linear(spec, spec.ffn, spec.hidden)
        self.ffn_sub_norm = RMSNorm(spec.ffn, spec.norm_eps) if spec.sub_norms else None
        self.squared_relu = spec.architecture == "bitnet-b1.58"

    def forward(self, x: Tensor) -> Tensor:
        """x (B, T, H) → (B, T, H)."""
        gate = self.gate_proj(x)
        y = (F.relu(gate).square() if self.squared_relu else F.silu(gate)) * self.up_proj(x)
        if self.ffn_sub_norm is not None:
            y = self.ffn_sub_norm(y)
        result: Tensor = self.down_proj(y)
        return result


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) * weight over the last dimension; the mean and root in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x (..., width) → the same shape and dtype."""
        wide = x.float()
        normal = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return normal.to(x.dtype) * self.weight.to(x.dtype)


def rotary_table(spec: ModelSpec, positions: int, device: torch.device) -> Tensor:
    """cos and sin of position * frequency, scaled, (2, positions, rope_dim / 2) float32, angles in float64."""
    rope = rope_of_model(spec)
    frequencies = torch.tensor(rope.frequencies, dtype=torch.float64, device=device)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64, device=device), frequencies)
    return (torch.stack((angles.cos(), angles.sin())) * rope.magnitude).float()


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotary positions on half-split pairs (i, i + rope_dim / 2), Hugging Face's order; x (B, heads, T, D)."""
    cos, sin = rotation.unbind(0)  # (T, rope_dim / 2) each
    half = cos.shape[-1]
    first, second, rest = torch.split(x.float(), [half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1).to(x.dtype)


def _linear(spec: ModelSpec, inputs: int, outputs: int) -> nn.Module:
    if spec.linear == "dense":
        return _CastLinear(inputs, outputs, bias=False)
    return BitLinear(inputs, outputs) if spec.linear == "ternary" else StoredBitLinear(inputs, outputs)


class _CastLinear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def _name_seed(name: str, seed: int) -> int:
    import hashlib

    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "little")
