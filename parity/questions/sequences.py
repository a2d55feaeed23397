"""Sequences: the token sequences on which a runtime is watched, and what was seen."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from conform.core.runtime import Request, RuntimeFault, Sampling, Step
from conform.parity.questions.prompts import HOSTILE_TEXTS, PROMPTS, PROSE
from conform.parity.questions.start import StartPrompt
from conform.parity.questions.tokenizer import PromptTokenizer
from conform.parity.reference.dimensions import Dimensions

__all__ = ["FREE", "ObservedSequence", "Scope", "SequenceKind", "WatchedSequence", "observed_ids", "plan_sequences"]

SequenceKind: TypeAlias = Literal["text", "random", "long", "prompt", "greedy", "sampled"]

FREE: frozenset[SequenceKind] = frozenset({"greedy", "sampled"})
"""Sequences in which the runtime chooses the tokens."""


@dataclass(frozen=True, slots=True)
class _SamplerOptions:
    """`factor` multiplies the temperature at which the model is uncertain what comes next."""

    seed_offset: int
    factor: float
    top_k: int
    top_p: float


# One sequence for each sampler option, so that an option that does nothing is seen.
_SAMPLINGS = (
    _SamplerOptions(0, 1.0, 0, 1.0),
    _SamplerOptions(1, 1.5, 5, 1.0),
    _SamplerOptions(2, 1.2, 0, 0.5),
)
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
class WatchedSequence:
    """One request and the decode steps at which it is watched.

    Teacher-forced sequences carry their tokens in `request.forced`; the others run freely.
    """

    kind: SequenceKind
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
class ObservedSequence:
    """A sequence as the runtime ran it: its watched steps, in order, and the text that was printed.

    `ids` are the input tokens of every position up to the last watched one.
    """

    sequence: WatchedSequence
    steps: tuple[Step, ...]
    ids: tuple[int, ...]
    text: bytes

    @property
    def name(self) -> str:
        """The name of the sequence."""
        return self.sequence.name

    @property
    def following(self) -> list[int]:
        """The token behind each watched step: the next input, or, at the very end, the runtime's best."""
        return [self._behind(step) for step in self.steps]

    def _behind(self, step: Step) -> int:
        return self.ids[step.position + 1] if step.position + 1 < len(self.ids) else step.argmax


def plan_sequences(
    sizes: Dimensions,
    start: StartPrompt,
    tokenizer: PromptTokenizer | None,
    scope: Scope,
    temperature: Callable[[tuple[int, ...]], float],
) -> list[WatchedSequence]:
    """Every sequence for a model of that size; those of text only where a tokenizer says which ids the text has.

    `temperature` returns the one at which the model is uncertain what follows these ids.
    """
    sequences = [_random(sizes, start, scope)] if start.ids else []
    if tokenizer is None:
        return sequences
    texts = dict.fromkeys((*scope.prompts, *PROMPTS, *scope.texts))
    sequences += [found for text in texts if (found := _prompt(sizes, tokenizer, text)) is not None]
    if start.ids:
        sequences += _forced_text(sizes, start, tokenizer, scope)
    free = scope.prompts or PROMPTS
    sequences += [
        found for text in free if (found := _free(sizes, tokenizer, text, scope.max_tokens, None)) is not None
    ]
    return sequences + list(_sampled(sizes, tokenizer, free[0], scope, temperature))


def _sampled(
    sizes: Dimensions,
    tokenizer: PromptTokenizer,
    text: str,
    scope: Scope,
    temperature: Callable[[tuple[int, ...]], float],
) -> Iterator[WatchedSequence]:
    uncertain = temperature(tokenizer.ids(text))
    for options in _SAMPLINGS:
        rounded = float(f"{uncertain * options.factor:.3g}")
        sampling = Sampling(scope.seed + options.seed_offset, rounded, options.top_k, options.top_p)
        sequence = _free(sizes, tokenizer, text, min(scope.max_tokens, _SAMPLED_TOKENS), sampling)
        if sequence is not None:
            yield sequence


def observed_ids(sequence: WatchedSequence, steps: Sequence[Step], sizes: Dimensions) -> tuple[int, ...]:
    """The ids of all positions up to the last watched one, after checking that each step is the one asked for.

    Raises RuntimeFault when layer count, position, token or width of a trace proves that something else was run.
    """
    known = list(sequence.prompt_ids) + list(sequence.request.forced)
    for number, step in zip(sequence.steps, steps, strict=True):
        where = f"{sequence.name}, decode step {number}"
        position = sequence.position(number)
        if position == len(known):  # running freely: the token that the runtime itself chose
            known.append(step.token)
        _expect(where, "position", position, step.position)
        _expect(where, "input token", known[position], step.token)
        _expect(where, "number of layers run", sizes.layers, step.layers)
        if step.logits is None:
            _expect(where, "width of the hidden state", sizes.hidden, step.hidden.size)
        else:
            _expect(where, "number of logits", sizes.vocab, step.logits.size)
        if not (0 <= step.token < sizes.vocab and 0 <= step.argmax < sizes.vocab):
            raise RuntimeFault("answered wrongly", f"{where}: token {max(step.token, step.argmax)} of {sizes.vocab}")
    return tuple(known[: sequence.position(sequence.steps[-1]) + 1])


def _expect(where: str, what: str, expected: int, found: int) -> None:
    if expected != found:
        raise RuntimeFault("answered wrongly", f"{where}: {what}: expected {expected}, the trace says {found}")


def _random(sizes: Dimensions, start: StartPrompt, scope: Scope) -> WatchedSequence:
    generator = random.Random(20_240_229)
    count = min(max(scope.forced_positions // 2, 1), sizes.context - len(start.ids))
    ids = tuple(generator.randrange(sizes.vocab) for _ in range(count))
    return _forced("random", "random ids", start, ids, range(count + 1))


def _prompt(sizes: Dimensions, tokenizer: PromptTokenizer, text: str) -> WatchedSequence | None:
    ids = tokenizer.ids(text)
    if not ids or len(ids) > sizes.context:
        return None
    return WatchedSequence("prompt", f"prompt {text[:24]!r}", Request(text, 1), ids, (0,))


def _forced_text(
    sizes: Dimensions, start: StartPrompt, tokenizer: PromptTokenizer, scope: Scope
) -> Iterator[WatchedSequence]:
    prose = tokenizer.continuation(PROSE)
    short = prose[: min(scope.forced_positions, sizes.context) - len(start.ids)]
    yield _forced("text", "prose", start, short, range(len(short) + 1))
    length = min(scope.longest, sizes.context) - len(start.ids)
    if length > len(short):
        long = (prose * (length // len(prose) + 1))[:length]
        yield _forced("long", f"prose up to position {length}", start, long, (length // 3, length))


def _forced(
    kind: SequenceKind, name: str, start: StartPrompt, ids: tuple[int, ...], steps: Sequence[int]
) -> WatchedSequence:
    return WatchedSequence(kind, name, Request(start.prompt, len(ids) + 1, forced=ids), start.ids, tuple(steps))


def _free(
    sizes: Dimensions, tokenizer: PromptTokenizer, text: str, tokens: int, sampling: Sampling | None
) -> WatchedSequence | None:
    ids = tokenizer.ids(text)
    tokens = min(tokens, sizes.context - len(ids))
    if not ids or tokens < 1:
        return None
    if sampling is None:
        return WatchedSequence(
            "greedy", f"greedy after {text[:24]!r}", Request(text, tokens), ids, tuple(range(tokens))
        )
    options = f"seed {sampling.seed}, temp {sampling.temperature}, top-k {sampling.top_k}, top-p {sampling.top_p}"
    return WatchedSequence("sampled", options, Request(text, tokens, sampling), ids, tuple(range(tokens)))
