"""Solve: the model dimensions inside given ranges that come nearest to a parameter budget, by exhaustive count."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from conform.contract.errors import ContractError

__all__ = ["Candidate", "Obstacle", "SearchSpace", "solve"]

# More candidates than this take minutes to count and answer no question that a narrower range would not.
_MOST_CANDIDATES = 20_000_000


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What stands against a candidate; one that is not blocking is a caution."""

    text: str
    blocking: bool


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Inclusive ranges of the dimensions. Exactly one of `ffn_mult` and `ffn_multiple_of` is given.

    With `ffn_mult`, ffn = ffn_mult × hidden. With `ffn_multiple_of`, ffn is any multiple of it with a ratio to hidden
    inside `ffn_ratio`: by default from 8/3, at which SwiGLU has the parameters of a plain 4× layer (Shazeer,
    arXiv:2002.05202), to 4. With `square`, heads × head_dim = hidden; otherwise hidden takes every multiple of 256.
    """

    layers: range
    hidden: range
    heads: range
    kv_heads: range
    head_dim: int
    vocab: int
    ffn_mult: Fraction | None = None
    ffn_multiple_of: int | None = None
    ffn_ratio: tuple[Fraction, Fraction] = (Fraction(8, 3), Fraction(4))
    square: bool = True

    def __post_init__(self) -> None:
        if (self.ffn_mult is None) == (self.ffn_multiple_of is None):
            raise ContractError("give either --ffn-mult or --ffn-multiple-of, and not both")
        for name in ("layers", "hidden", "heads", "kv_heads"):
            values = getattr(self, name)
            if not values or values[0] < 1:
                raise ContractError(f"--{name.replace('_', '-')}: expected a range of positive numbers like 16:20")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration with its exact parameter count."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    parameters: int

    def obstacles(self) -> list[Obstacle]:
        """What does not divide, and what hides bugs."""
        return list(_obstacles(self))


def solve(space: SearchSpace, budget: int, *, limit: int) -> list[Candidate]:
    """The `limit` candidates nearest to the budget; those with a blocking obstacle come after all others.

    Raises ContractError when the ranges hold no candidate, or far too many to count.
    """
    _bound(space)
    found = heapq.nsmallest(limit, _candidates(space), key=lambda c: _rank(c, budget))
    if not found:
        raise ContractError("no configuration lies inside these ranges; widen --hidden, --heads or --head-dim")
    return found


def _rank(candidate: Candidate, budget: int) -> tuple[bool, int, bool, int]:
    blocked = any(obstacle.blocking for obstacle in candidate.obstacles())
    return blocked, abs(candidate.parameters - budget), not candidate.tied, candidate.layers


def _bound(space: SearchSpace) -> None:
    hidden = len(space.heads) if space.square else len(space.hidden) // 256 + 1
    ffn = (
        1 if space.ffn_multiple_of is None else 1 + int(space.hidden[-1] * space.ffn_ratio[1]) // space.ffn_multiple_of
    )
    heads = 1 if space.square else len(space.heads)
    total = 2 * len(space.layers) * heads * len(space.kv_heads) * hidden * ffn
    if total > _MOST_CANDIDATES:
        raise ContractError(f"these ranges hold about {total:,} configurations; narrow them below {_MOST_CANDIDATES:,}")


def _candidates(space: SearchSpace) -> Iterator[Candidate]:
    for heads, kv_heads in itertools.product(space.heads, space.kv_heads):
        for hidden in _hidden_sizes(space, heads):
            for ffn, layers, tied in itertools.product(_ffn_sizes(space, hidden), space.layers, (True, False)):
                count = _count(space, layers, hidden, heads, kv_heads, ffn, tied)
                yield Candidate(layers, hidden, heads, kv_heads, space.head_dim, ffn, space.vocab, tied, count)


def _count(space: SearchSpace, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, tied: bool) -> int:
    # As ModelSpec.parameters, which cannot be asked: it refuses kv heads that do not divide heads.
    attention = 2 * hidden * space.head_dim * (heads + kv_heads)
    return layers * (attention + 3 * hidden * ffn + 2 * hidden) + hidden + space.vocab * hidden * (1 if tied else 2)


def _hidden_sizes(space: SearchSpace, heads: int) -> Iterator[int]:
    if space.square:
        if heads * space.head_dim in space.hidden:
            yield heads * space.head_dim
        return
    yield from (hidden for hidden in space.hidden if hidden % 256 == 0)


def _ffn_sizes(space: SearchSpace, hidden: int) -> Iterator[int]:
    if space.ffn_mult is not None:
        ffn = space.ffn_mult * hidden
        if ffn.denominator == 1:
            yield int(ffn)
        return
    step = space.ffn_multiple_of or 1
    lowest, highest = (ratio * hidden for ratio in space.ffn_ratio)
    yield from range(-(-lowest // step) * step, int(highest) + 1, step)


def _obstacles(candidate: Candidate) -> Iterator[Obstacle]:
    widths = {
        "hidden": candidate.hidden,
        "heads × head_dim": candidate.heads * candidate.head_dim,
        "ffn": candidate.ffn,
    }
    for name, width in widths.items():
        if width % 128:
            yield Obstacle(f"{name} {width} is not a multiple of 128 (i2_s)", blocking=True)
        elif width % 256:
            yield Obstacle(f"{name} {width} is not a multiple of 256 (K and IQ types)", blocking=True)
    if candidate.heads % candidate.kv_heads:
        yield Obstacle(f"{candidate.kv_heads} kv heads do not divide {candidate.heads} heads", blocking=True)
    elif candidate.heads // candidate.kv_heads == candidate.kv_heads:
        yield Obstacle(f"heads / kv heads = kv heads = {candidate.kv_heads} hides a swap of the two", blocking=False)
