"""Dimensions: what the reference must know of a model besides its weights, from a contract or from a GGUF file."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

from conform.contract.spec import ModelSpec
from conform.core.errors import GGUFError
from conform.core.gguf.read import GGUFFile

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
    rope_base: float
    rope_dim: int
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
        rope_base=model.rope_base,
        rope_dim=model.rope_dim,
        norm_eps=model.norm_eps,
    )


def dimensions_of_file(file: GGUFFile) -> Dimensions:
    """Those that a GGUF file declares, checked against the shapes of its tensors.

    Raises GGUFError naming the key or tensor that is missing, of the wrong type or not supported by the reference.
    """
    keys = _Keys(file)
    architecture = str(file.metadata.get("general.architecture", ""))
    if architecture not in _ARCHITECTURES:
        known = ", ".join(_ARCHITECTURES)
        raise GGUFError(
            f"{file.path}: architecture {architecture!r} has no reference implementation; those that have one: {known}"
        )
    activation, pairing = _ARCHITECTURES[architecture]
    keys.refuse_rope_scaling()
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
        rope_base=keys.number("rope.freq_base", 10000.0),
        rope_dim=keys.whole("rope.dimension_count", head_dim),
        norm_eps=keys.number("attention.layer_norm_rms_epsilon"),
    )


class _Keys:
    """Reads the keys of one architecture, each checked."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self._architecture = str(file.metadata.get("general.architecture", ""))

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise GGUFError(f"{self._place(name)} = {value!r}: expected a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
            raise GGUFError(f"{self._place(name)} = {value!r}: expected a positive number")
        return float(value)

    def shape(self, tensor: str) -> tuple[int, int]:
        info = self._file.tensors.get(tensor)
        if info is None or len(info.shape) != 2:
            raise GGUFError(f"{self._file.path}: expected a matrix {tensor}, found {info and info.shape}")
        return info.shape[0], info.shape[1]

    def refuse_rope_scaling(self) -> None:
        kind = self._file.metadata.get(f"{self._architecture}.rope.scaling.type", "none")
        factor = self._file.metadata.get(f"{self._architecture}.rope.scaling.factor", 1.0)
        if kind not in {"", "none"} or factor != 1.0:
            raise GGUFError(f"{self._file.path}: rope scaling {kind!r} by {factor!r} has no reference implementation")

    def _value(self, name: str, default: float | None) -> object:
        value = self._file.metadata.get(f"{self._architecture}.{name}", default)
        if value is None:
            raise GGUFError(f"{self._place(name)} is missing")
        return value

    def _place(self, name: str) -> str:
        return f"{self._file.path}: {self._architecture}.{name}"
