"""Source check: conform's reference and another implementation over one checkpoint, compared at every position."""

import functools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from conform.core.files.digest import file_sha256
from conform.core.quantizer import Float32
from conform.parity.candidate import Source
from conform.parity.errors import ForeignError
from conform.parity.questions.prompts import PROSE
from conform.parity.questions.tokenizer import PromptTokenizer
from conform.parity.reference.dimensions import dimensions_of_model
from conform.parity.reference.foreign import LIBRARY, foreign_logits, library_is_installed
from conform.parity.reference.linear import Arithmetic
from conform.parity.reference.metrics import Closeness, Float64, closeness, divergences
from conform.parity.reference.model import Reference
from conform.parity.reference.weights import CheckpointWeights
from conform.parity.rungs.agreement import Agreement
from conform.parity.rungs.implementation import Position
from conform.parity.rungs.source import CheckedSource, UncheckedSource

__all__ = ["SourceCheck", "SourceSequence", "check_source", "compare_sources", "reference_of", "source_sequences"]

# Long enough that a scaling of low frequencies alone, as Llama 3 has it, shows.
_PROSE_POSITIONS = 256
_RANDOM_SEQUENCES = 2
_RANDOM_POSITIONS = 32
# Positions whose figures are taken at a time: each needs a few arrays of float64 over the vocabulary.
_ROWS = 64


@dataclass(frozen=True, slots=True)
class SourceSequence:
    """Token ids that both implementations are run on."""

    name: str
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class SourceCheck:
    """What the rung reads, and what the receipt says of it: the ids, the library's versions, config.json's sha256."""

    seen: CheckedSource | UncheckedSource
    sequences: tuple[SourceSequence, ...]
    versions: Mapping[str, str]
    config_sha256: str = ""

    @property
    def library(self) -> str:
        """The other implementation, its version and class; "" where it did not answer."""
        return self.seen.library if isinstance(self.seen, CheckedSource) else ""


def source_sequences(source: Source, tokenizer: PromptTokenizer | None, longest: int) -> tuple[SourceSequence, ...]:
    """Prose, where a tokenizer says which ids it has, and random ids; none longer than `longest` or the context."""
    model = source.contract.model
    limit = min(longest, model.context)
    generator = random.Random(20_261_125)
    sequences = [
        SourceSequence(f"random ids {number}", tuple(generator.randrange(model.vocab) for _ in range(count)))
        for number in range(1, _RANDOM_SEQUENCES + 1)
        if (count := min(limit, _RANDOM_POSITIONS))
    ]
    if tokenizer is not None:
        sequences.insert(0, SourceSequence("prose", tokenizer.ids(PROSE)[: min(limit, _PROSE_POSITIONS)]))
    return tuple(sequences)


@functools.lru_cache(maxsize=1)  # every export of a checkpoint, and every planted fault, has the same answer
def check_source(source: Source, sequences: tuple[SourceSequence, ...]) -> SourceCheck:
    """Both implementations on these sequences, or why the other one could not be asked."""
    if not library_is_installed():
        reason = f"{LIBRARY} is not installed: pip install 'gguf-conform[hf]'"
        return SourceCheck(UncheckedSource(reason, tried=False), sequences, {})
    parameters = source.contract.model.parameters
    try:
        foreign = foreign_logits(source.checkpoint, parameters, [sequence.ids for sequence in sequences])
        seen = compare_sources(source, sequences, foreign.logits, foreign.library)
    except ForeignError as error:
        return SourceCheck(UncheckedSource(str(error), tried=True), sequences, {})
    config = source.checkpoint.config_path
    return SourceCheck(seen, sequences, foreign.versions, file_sha256(config) if config else "")


def reference_of(source: Source) -> Reference:
    """PyTorch over the checkpoint, as its contract says that it is meant."""
    return Reference(dimensions_of_model(source.contract.model), CheckpointWeights(source.checkpoint, source.contract))


def compare_sources(
    source: Source, sequences: Sequence[SourceSequence], foreign: Sequence[Float32], library: str
) -> CheckedSource:
    """Conform's reference with the logits of the other implementation, (positions, vocab) for each sequence.

    Raises ForeignError when the two have vocabularies of different sizes.
    """
    vocab, widths = source.contract.model.vocab, sorted({logits.shape[1] for logits in foreign})
    if widths != [vocab]:
        raise ForeignError(f"{library}: logits of {widths} tokens, but the contract says {vocab}")
    reference = reference_of(source)
    own = _logits(reference, "double", sequences)
    noises = [_closeness(own, _logits(reference, arithmetic, sequences)) for arithmetic in _noises(source)]
    # Flips are noise at every position: the library sums in float32, and may round otherwise at any of them.
    noise = Closeness(*(np.maximum.reduce(figures) for figures in zip(*map(_figures, noises), strict=True)))
    compared = _closeness(own, foreign)
    kl, same_best = (
        np.concatenate(column) for column in zip(*map(divergences, _blocks(own), _blocks(foreign)), strict=True)
    )
    return CheckedSource(
        library=library,
        positions=[Position(sequence.name, number) for sequence in sequences for number in range(len(sequence.ids))],
        agreement=Agreement(compared, noise, None, np.ones(len(kl), dtype=np.bool_)),
        kl=float(kl.mean()),
        other_best=float(1 - same_best.mean()),
    )


def _noises(source: Source) -> Sequence[Arithmetic]:
    return ("single",) if source.contract.model.linear == "dense" else ("single", "perturbed")


def _logits(reference: Reference, arithmetic: Arithmetic, sequences: Sequence[SourceSequence]) -> list[Float32]:
    """(positions, vocab) of each sequence."""
    computed = replace(reference, arithmetic=arithmetic)
    return [computed.logits(states) for states in computed.hidden([sequence.ids for sequence in sequences])]


def _closeness(expected: Sequence[Float32], found: Sequence[Float32]) -> Closeness:
    """Of every position of every sequence, one behind the other."""
    parts = map(_figures, map(closeness, _blocks(expected), _blocks(found)))
    return Closeness(*(np.concatenate(figures) for figures in zip(*parts, strict=True)))


def _blocks(logits: Sequence[Float32]) -> Iterator[Float32]:
    """The rows of every sequence in order, few at a time."""
    for rows in logits:
        yield from (rows[start : start + _ROWS] for start in range(0, len(rows), _ROWS))


def _figures(closeness: Closeness) -> tuple[Float64, Float64]:
    return closeness.nmse, closeness.max_abs
