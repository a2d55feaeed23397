"""Passages: the sequences of tokens on which a runtime is watched, and what was seen."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from conform.core.runtime import Request, RuntimeFault, Sampling, Step
from conform.parity.questions.prompts import HOSTILE_TEXTS, PROMPTS, PROSE
from conform.parity.questions.start import Opening
from conform.parity.questions.tokenizer import PromptTokenizer
from conform.parity.reference.dimensions import Dimensions

__all__ = ["FREE", "Observed", "Passage", "PassageKind", "Scope", "observed_ids", "plan_passages"]

PassageKind: TypeAlias = Literal["text", "random", "long", "prompt", "greedy", "sampled"]

FREE: frozenset[PassageKind] = frozenset({"greedy", "sampled"})
"""Passages in which the runtime chooses the tokens."""

# One passage for each sampler option, so that one that does nothing is seen: seed offset, factor of the temperature at
# which the model is unsure, top_k, top_p.
_SAMPLINGS = ((0, 1.0, 0, 1.0), (1, 1.5, 5, 1.0), (2, 1.2, 0, 0.5))
_SAMPLED_TOKENS = 10


@dataclass(frozen=True, slots=True)
class Scope:
    """How much is examined: the user's prompts, tokens to generate, positions to force, the longest run, texts."""

    prompts: tuple[str, ...] = ()
    max_tokens: int = 16
    seed: int = 1
    forced_positions: int = 24
    longest: int = 512
    texts: tuple[str, ...] = HOSTILE_TEXTS


@dataclass(frozen=True, slots=True)
class Passage:
    """One request and the decode steps at which it is watched.

    Teacher-forced passages carry their tokens in `request.forced`; the others run freely.
    """

    kind: PassageKind
    name: str
    request: Request
    prompt_ids: tuple[int, ...]
    steps: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """The input tokens that are known before it is run."""
        return (*self.prompt_ids, *self.request.forced)

    def position(self, step: int) -> int:
        """The absolute position at which that decode step runs."""
        return len(self.prompt_ids) - 1 + step


@dataclass(frozen=True, slots=True)
class Observed:
    """A passage with the watched steps, in order, and the ids that were the input of every position up to the last."""

    passage: Passage
    steps: tuple[Step, ...]
    ids: tuple[int, ...]
    text: bytes


def plan_passages(
    sizes: Dimensions,
    opening: Opening,
    tokenizer: PromptTokenizer | None,
    scope: Scope,
    temperature: Callable[[tuple[int, ...]], float],
) -> list[Passage]:
    """Every passage for a model of that size; those of text only where there is a tokenizer to say what text is.

    `temperature` gives the one at which the model is unsure what follows these ids.
    """
    passages = [_random(sizes, opening, scope)] if opening.ids else []
    if tokenizer is None:
        return passages
    texts = dict.fromkeys((*scope.prompts, *PROMPTS, *scope.texts))
    passages += [p for text in texts if (p := _prompt(sizes, tokenizer, text)) is not None]
    if opening.ids:
        passages += _forced_text(sizes, opening, tokenizer, scope)
    free = scope.prompts or PROMPTS
    passages += [p for text in free if (p := _free(sizes, tokenizer, text, scope.max_tokens, None)) is not None]
    return passages + list(_sampled(sizes, tokenizer, free[0], scope, temperature))


def _sampled(
    sizes: Dimensions,
    tokenizer: PromptTokenizer,
    text: str,
    scope: Scope,
    temperature: Callable[[tuple[int, ...]], float],
) -> Iterator[Passage]:
    uncertain = temperature(tokenizer.ids(text))
    for offset, factor, top_k, top_p in _SAMPLINGS:
        sampling = Sampling(scope.seed + offset, float(f"{uncertain * factor:.3g}"), top_k, top_p)
        passage = _free(sizes, tokenizer, text, min(scope.max_tokens, _SAMPLED_TOKENS), sampling)
        if passage is not None:
            yield passage


def observed_ids(passage: Passage, steps: Sequence[Step], sizes: Dimensions) -> tuple[int, ...]:
    """The ids of all positions up to the last watched one, after checking that each step is the one asked for.

    Raises RuntimeFault when layer count, position, token or width of a trace prove that something else was run.
    """
    known = list(passage.prompt_ids) + list(passage.request.forced)
    for number, step in zip(passage.steps, steps, strict=True):
        where = f"{passage.name}, decode step {number}"
        position = passage.position(number)
        if position == len(known):  # running freely: the token that the runtime itself chose
            known.append(step.token)
        _expect(where, "position", position, step.position)
        _expect(where, "input token", known[position], step.token)
        _expect(where, "number of layers run", sizes.layers, step.layers)
        _expect(where, "width of the hidden state", sizes.hidden, step.hidden.size)
        if not (0 <= step.token < sizes.vocab and 0 <= step.argmax < sizes.vocab):
            raise RuntimeFault("answered wrongly", f"{where}: token {max(step.token, step.argmax)} of {sizes.vocab}")
    return tuple(known[: passage.position(passage.steps[-1]) + 1])


def _expect(where: str, what: str, expected: int, found: int) -> None:
    if expected != found:
        raise RuntimeFault("answered wrongly", f"{where}: {what}: expected {expected}, the trace says {found}")


def _random(sizes: Dimensions, opening: Opening, scope: Scope) -> Passage:
    generator = random.Random(20_240_229)
    count = min(max(scope.forced_positions // 2, 1), sizes.context - len(opening.ids))
    ids = tuple(generator.randrange(sizes.vocab) for _ in range(count))
    return _forced("random", "random ids", opening, ids, range(count + 1))


def _prompt(sizes: Dimensions, tokenizer: PromptTokenizer, text: str) -> Passage | None:
    ids = tokenizer.ids(text)
    if not ids or len(ids) > sizes.context:
        return None
    return Passage("prompt", f"prompt {text[:24]!r}", Request(text, 1), ids, (0,))


def _forced_text(sizes: Dimensions, opening: Opening, tokenizer: PromptTokenizer, scope: Scope) -> Iterator[Passage]:
    prose = tokenizer.continuation(PROSE)
    short = prose[: min(scope.forced_positions, sizes.context) - len(opening.ids)]
    yield _forced("text", "prose", opening, short, range(len(short) + 1))
    length = min(scope.longest, sizes.context) - len(opening.ids)
    if length > len(short):
        long = (prose * (length // len(prose) + 1))[:length]
        yield _forced("long", f"prose up to position {length}", opening, long, (length // 3, length))


def _forced(kind: PassageKind, name: str, opening: Opening, ids: tuple[int, ...], steps: Sequence[int]) -> Passage:
    return Passage(kind, name, Request(opening.prompt, len(ids) + 1, forced=ids), opening.ids, tuple(steps))


def _free(
    sizes: Dimensions, tokenizer: PromptTokenizer, text: str, tokens: int, sampling: Sampling | None
) -> Passage | None:
    ids = tokenizer.ids(text)
    tokens = min(tokens, sizes.context - len(ids))
    if not ids or tokens < 1:
        return None
    if sampling is None:
        return Passage("greedy", f"greedy after {text[:24]!r}", Request(text, tokens), ids, tuple(range(tokens)))
    options = f"seed {sampling.seed}, temp {sampling.temperature}, top-k {sampling.top_k}, top-p {sampling.top_p}"
    return Passage("sampled", options, Request(text, tokens, sampling), ids, tuple(range(tokens)))
