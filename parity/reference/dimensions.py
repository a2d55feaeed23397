"""Dimensions: what the reference must know of a model besides its weights, from a contract or from a GGUF file."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

from conform.contract.rope import Rope, rope_of_model
from conform.contract.spec import ModelSpec
from conform.core.errors import GGUFError
from conform.core.gguf.keys import ModelKeys
from conform.core.gguf.read import GGUFFile
from conform.parity.reference.rope import rope_of_file

__all__ = ["Activation", "Dimensions", "RopePairing", "dimensions_of_file", "dimensions_of_model"]

Activation: TypeAlias = Literal["silu", "relu2"]
RopePairing: TypeAlias = Literal["adjacent", "halves"]

# What `general.architecture` decides: the activation of the gate, and which elements of a head rotate together.
_ARCHITECTURES: dict[str, tuple[Activation, RopePairing]] = {
    "llama": ("silu", "adjacent"),
    "bitnet-b1.58": ("relu2", "halves"),
    "bitnet": ("relu2", "halves"),
    "bitnet-25": ("relu2", "halves"),
}


@dataclass(frozen=True, slots=True)
class Dimensions:
    """Everything but the weights that decides what a model computes."""

    activation: Activation
    rope_pairing: RopePairing
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    rope: Rope
    norm_eps: float


def dimensions_of_model(model: ModelSpec) -> Dimensions:
    """Those of a checkpoint of that contract, whose rotary rows are split in halves."""
    return Dimensions(
        activation="silu" if model.architecture == "llama" else "relu2",
        rope_pairing="halves",
        layers=model.layers,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_dim=model.head_dim,
        vocab=model.vocab,
        context=model.context,
        rope=rope_of_model(model),
        norm_eps=model.norm_eps,
    )


def dimensions_of_file(file: GGUFFile) -> Dimensions:
    """Those that a GGUF file declares, checked against the shapes of its tensors.

    Raises GGUFError naming the key or tensor that is missing, of the wrong type or not supported by the reference.
    """
    keys = ModelKeys(file)
    architecture = str(file.metadata.get("general.architecture", ""))
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GGUFError(
            f"{file.path}: architecture {architecture!r} has no reference implementation; those that have one: {known}"
        )
    activation, pairing = _ARCHITECTURES[architecture]
    heads = keys.whole("attention.head_count")
    vocab, hidden = keys.shape("token_embd.weight")
    q_width = keys.shape("blk.0.attn_q.weight")[0]
    if q_width % heads:
        raise GGUFError(f"{file.path}: attn_q has {q_width} rows, which {heads} heads do not divide")
    head_dim = q_width // heads
    return Dimensions(
        activation=activation,
        rope_pairing=pairing,
        layers=keys.whole("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=keys.whole("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab=vocab,
        context=keys.whole("context_length"),
        rope=rope_of_file(file, keys, head_dim),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
    )
