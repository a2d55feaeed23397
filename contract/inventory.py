"""Inventory: the exact list of tensors that a model spec implies, in a checkpoint and in a GGUF file."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from conform.contract.spec import ModelSpec, StorageClass

__all__ = ["Role", "TensorSpec", "gguf_inventory", "inventory"]

Role = Literal[
    "rope_freqs",
    "token_embd",
    "output_norm",
    "output",
    "attn_norm",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_sub_norm",
    "attn_output",
    "ffn_norm",
    "ffn_gate",
    "ffn_up",
    "ffn_sub_norm",
    "ffn_down",
]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: its name in a checkpoint, its name in a GGUF file, and its shape as PyTorch writes it, (out, in).

    One that is `derived` is in no checkpoint: the contract alone decides its values, and `name` is the contract's key.
    """

    name: str
    gguf_name: str
    shape: tuple[int, ...]
    role: Role
    storage_class: StorageClass
    layer: int | None = None
    derived: bool = False


def inventory(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every tensor of a checkpoint, in the order in which a GGUF file holds them."""
    return tuple(_tensors(model))


def gguf_inventory(model: ModelSpec) -> tuple[TensorSpec, ...]:
    """Every tensor of a GGUF file: the derived ones, then those of the checkpoint.

    Only the scaling of Llama 3 is written as a tensor: what each pair's frequency is divided by, float32.
    """
    if model.rope_scaling is None or model.rope_scaling.kind != "llama3":
        return inventory(model)
    shape = (model.rope_dim // 2,)
    factors = TensorSpec("model.rope_scaling", "rope_freqs.weight", shape, "rope_freqs", "norm", derived=True)
    return (factors, *inventory(model))


def _tensors(model: ModelSpec) -> Iterator[TensorSpec]:
    embedding = (model.vocab, model.hidden)
    yield TensorSpec("model.embed_tokens.weight", "token_embd.weight", embedding, "token_embd", "embedding")
    for layer in range(model.layers):
        yield from _block(model, layer)
    yield TensorSpec("model.norm.weight", "output_norm.weight", (model.hidden,), "output_norm", "norm")
    if not model.tied_embeddings:
        yield TensorSpec("lm_head.weight", "output.weight", embedding, "output", "output")


def _block(model: ModelSpec, layer: int) -> Iterator[TensorSpec]:
    hidden, ffn = (model.hidden, model.ffn)
    rows: list[tuple[str, Role, tuple[int, ...]]] = [
        ("input_layernorm", "attn_norm", (hidden,)),
        ("self_attn.q_proj", "attn_q", (model.q_width, hidden)),
        ("self_attn.k_proj", "attn_k", (model.kv_width, hidden)),
        ("self_attn.v_proj", "attn_v", (model.kv_width, hidden)),
        ("self_attn.attn_sub_norm", "attn_sub_norm", (model.q_width,)),
        ("self_attn.o_proj", "attn_output", (hidden, model.q_width)),
        ("post_attention_layernorm", "ffn_norm", (hidden,)),
        ("mlp.gate_proj", "ffn_gate", (ffn, hidden)),
        ("mlp.up_proj", "ffn_up", (ffn, hidden)),
        ("mlp.ffn_sub_norm", "ffn_sub_norm", (ffn,)),
        ("mlp.down_proj", "ffn_down", (hidden, ffn)),
    ]
    for module, role, shape in rows:
        if role.endswith("sub_norm") and not model.sub_norms:
            continue
        storage_class: StorageClass = "norm" if len(shape) == 1 else "linear"
        yield TensorSpec(
            f"model.layers.{layer}.{module}.weight", f"blk.{layer}.{role}.weight", shape, role, storage_class, layer
        )
