"""Rope: the rotations that a GGUF file declares, in its keys and in the factors that Llama 3 has as a tensor."""

import numpy as np

from conform.contract.errors import ContractError
from conform.contract.rope import Rope, rope_of, yarn_magnitude, yarn_range
from conform.contract.spec import RopeScaling
from conform.core.errors import GGUFError
from conform.core.gguf.keys import ModelKeys
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import ggml_type

__all__ = ["rope_of_file"]

_FACTORS = "rope_freqs.weight"
_ROPE_KEYS = (
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
)
# A header may claim a head of any size; no model's has more.
_MOST = 1 << 16
# Those that llama.cpp takes for the architectures below, whatever a file states.
_YARN_BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}


def rope_of_file(file: GGUFFile, keys: ModelKeys, head_dim: int) -> Rope:
    """What llama.cpp computes from the file: the scaling, then the factors.

    Raises GGUFError naming the key or tensor that is wrong or that the reference does not know.
    """
    keys.refuse_others("rope", _ROPE_KEYS)
    dim = keys.whole("rope.dimension_count", head_dim)
    most = min(head_dim, _MOST)
    if dim % 2 or dim > most:
        raise GGUFError(f"{file.path}: rope.dimension_count = {dim}: expected an even number up to {most}")
    base = keys.number("rope.freq_base", 10000.0)
    rope = rope_of(base, dim, _scaling_of_file(file, keys, base, dim))
    rope = Rope(rope.frequencies, rope.magnitude * keys.number("rope.scaling.attn_factor", 1.0))
    return rope.slowed(_factors(file, keys, dim // 2)) if _FACTORS in file.tensors else rope


def _scaling_of_file(file: GGUFFile, keys: ModelKeys, base: float, dim: int) -> RopeScaling | None:
    kind = keys.text("rope.scaling.type", "none")
    if kind in {"", "none"} and keys.number("rope.scaling.factor", 1.0) == 1:
        return None
    factor = keys.number("rope.scaling.factor")
    try:
        if kind == "linear":
            return RopeScaling("linear", factor)
        if kind == "yarn":
            return _yarn_of_file(file, keys, factor, base, dim)
    except ContractError as error:
        raise GGUFError(f"{file.path}: {error}") from error
    raise GGUFError(
        f"{file.path}: rope scaling {kind!r} by {factor:g} has no reference implementation; those that have one: "
        "linear, yarn, and rope_freqs.weight"
    )


def _yarn_of_file(file: GGUFFile, keys: ModelKeys, factor: float, base: float, dim: int) -> RopeScaling:
    context = keys.whole("rope.scaling.original_context_length", keys.whole("context_length"))
    for name, usual in _YARN_BETAS.items():
        if (found := keys.number(f"rope.scaling.yarn_{name}", usual)) != usual:
            raise GGUFError(
                f"{file.path}: rope.scaling.yarn_{name} = {found:g}: expected {usual:g}, because runtimes differ in "
                "whether they obey it"
            )
    scaling = RopeScaling("yarn", factor, context, **_YARN_BETAS, attention_factor=yarn_magnitude(factor))
    first, last = yarn_range(base, dim, scaling)
    if first > last:
        raise GGUFError(f"{file.path}: yarn scaling from {context} positions, in which no pair turns; runtimes differ")
    return scaling


def _factors(file: GGUFFile, keys: ModelKeys, pairs: int) -> list[float]:
    """The tensor rope_freqs.weight: positive factors in float32, one for each pair."""
    tensor = file.tensors[_FACTORS]
    kind = ggml_type(tensor.ggml_type)
    if kind is None or kind.name != "f32" or tensor.shape != (pairs,) or keys.architecture != "llama":
        stored = kind.name if kind else f"type {tensor.ggml_type}"
        raise GGUFError(
            f"{file.path}: {_FACTORS} of type {stored} and shape {tensor.shape} in architecture {keys.architecture}: "
            f"expected {pairs} values of type f32, in architecture llama alone"
        )
    values = file.packed(_FACTORS).view("<f4")
    if not (np.isfinite(values) & (values > 0)).all():
        raise GGUFError(f"{file.path}: {_FACTORS} holds a value that is not a positive number")
    return [float(value) for value in values]
