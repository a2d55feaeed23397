"""Rope: the rotary frequencies of a model, and what RoPE scaling makes of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from conform.contract.spec import ModelSpec, RopeScaling

__all__ = ["FACTOR_TOLERANCE", "Rope", "frequency_factors", "rope_of", "rope_of_model", "yarn_magnitude", "yarn_range"]

FACTOR_TOLERANCE = 1e-5
"""Relative difference allowed between two computations of the same frequency factor: converters use float32."""


@dataclass(frozen=True, slots=True)
class Rope:
    """At position p, pair i turns by p · frequencies[i] radians; its sine and cosine are multiplied by `magnitude`."""

    frequencies: tuple[float, ...]
    magnitude: float = 1.0

    def slowed(self, factors: Sequence[float]) -> "Rope":
        """Each frequency divided by its factor."""
        return Rope(tuple(f / factor for f, factor in zip(self.frequencies, factors, strict=True)), self.magnitude)


def rope_of_model(model: ModelSpec) -> Rope:
    """The rotations of a contract, in float64."""
    return rope_of(model.rope_base, model.rope_dim, model.rope_scaling)


def rope_of(base: float, dim: int, scaling: RopeScaling | None) -> Rope:
    """The rotations of dim / 2 pairs, in float64: base^(-2i / dim), scaled."""
    plain = Rope(_plain_frequencies(base, dim))
    if scaling is None:
        return plain
    magnitude = 1.0 if scaling.attention_factor is None else scaling.attention_factor
    return Rope(plain.slowed(frequency_factors(base, dim, scaling)).frequencies, magnitude)


def frequency_factors(base: float, dim: int, scaling: RopeScaling) -> tuple[float, ...]:
    """By how much the scaling divides each pair's frequency: from 1, where it is kept, to the scaling's factor."""
    if scaling.kind == "llama3":
        kept = _kept_by_llama3(base, dim, scaling)
    elif scaling.kind == "yarn":
        kept = _kept_by_yarn(base, dim, scaling)
    else:
        kept = [0.0] * (dim // 2)
    return tuple(scaling.factor / ((1 - share) + share * scaling.factor) for share in kept)


def yarn_magnitude(factor: float) -> float:
    """The attention factor that YaRN suggests: 0.1 ln(factor) + 1, and 1 for a factor up to 1 (arXiv:2309.00071)."""
    return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


def yarn_range(base: float, dim: int, scaling: RopeScaling) -> tuple[int, int]:
    """The pairs between which YaRN goes from keeping the frequency to dividing it by the factor.

    They are those that make `beta_fast` and `beta_slow` turns in the original context, rounded outwards, as
    transformers (`truncate`) and ggml do; for absurd parameters the first lies behind the second.
    """
    context = scaling.original_context

    def pair(turns: float | None) -> float:
        assert context is not None
        assert turns is not None
        return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(base))

    return max(math.floor(pair(scaling.beta_fast)), 0), min(math.ceil(pair(scaling.beta_slow)), dim - 1)


def _plain_frequencies(base: float, dim: int) -> tuple[float, ...]:
    return tuple(base ** (-2 * pair / dim) for pair in range(dim // 2))


def _kept_by_llama3(base: float, dim: int, scaling: RopeScaling) -> list[float]:
    """For each pair the share of its frequency that is kept, by its turns in the original context (Llama 3.1)."""
    context, low, high = scaling.original_context, scaling.low_freq_factor, scaling.high_freq_factor
    assert context is not None
    assert low is not None
    assert high is not None
    turns = [context * frequency / (2 * math.pi) for frequency in _plain_frequencies(base, dim)]
    return [_clamped((count - low) / (high - low)) for count in turns]


def _kept_by_yarn(base: float, dim: int, scaling: RopeScaling) -> list[float]:
    first, last = yarn_range(base, dim, scaling)
    width = last - first or 0.001  # as transformers and ggml avoid the division by zero
    return [1 - _clamped((pair - first) / width) for pair in range(dim // 2)]


def _clamped(share: float) -> float:
    return min(max(share, 0.0), 1.0)
