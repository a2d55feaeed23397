"""References: what PyTorch computes over the decoded file and over the checkpoint, each once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from conform.core.gguf.types import I2_S
from conform.core.quantizer import Float32
from conform.parity.candidate import Candidate
from conform.parity.comparison import Logits
from conform.parity.observation import Observation
from conform.parity.questions.sequences import FREE, SequenceKind, WatchedSequence
from conform.parity.reference.dimensions import dimensions_of_file
from conform.parity.reference.metrics import (
    Divergence,
    Float64,
    average,
    divergences,
    negative_log_likelihoods,
    summary,
)
from conform.parity.reference.model import Reference
from conform.parity.reference.sampler import uncertain_temperature
from conform.parity.reference.weights import FileWeights
from conform.parity.rungs.likelihood import LikelihoodChange
from conform.parity.source_check import reference_of

__all__ = ["QuantisationCost", "References"]

# The sequences that read like text; the others show how a model takes what it was never trained on.
_NATURAL: tuple[SequenceKind, ...] = ("text", "long")
_UNNATURAL: tuple[SequenceKind, ...] = ("random", "prompt")
# Positions whose logits over the whole vocabulary are held at a time.
_POSITIONS = 128
# Logits of one kind that are held at a time where positions are compared: 256 MiB in float64.
_LOGITS = 1 << 25


@dataclass(frozen=True, slots=True)
class QuantisationCost:
    """What storing the checkpoint in the file costs: KL(checkpoint || decoded file), and the change of likelihood.

    `change` is measured on the longest natural sequence; None when there is none.
    """

    natural: Divergence
    unnatural: Divergence
    change: LikelihoodChange | None


class References:
    """Computed when first read; a property that needs what the runtime chose raises its RuntimeFault."""

    def __init__(self, candidate: Candidate, observation: Observation) -> None:
        self._candidate = candidate
        self._observation = observation

    @cached_property
    def weights(self) -> FileWeights:
        """The decoded weights of the file."""
        return FileWeights(self._candidate.file, self._candidate.registry)

    @cached_property
    def decoded(self) -> Reference:
        """PyTorch over the decoded file."""
        return Reference(dimensions_of_file(self._candidate.file), self.weights)

    def temperature(self, ids: tuple[int, ...]) -> float:
        """The temperature at which the token behind these is uncertain, so that a draw shows what the sampler does."""
        return uncertain_temperature(self.decoded.logits(self.decoded.hidden([ids])[0][-1:])[0])

    def vectors(self, ids: tuple[int, ...]) -> dict[tuple[int, str], Float32]:
        """Every intermediate vector at the last of these ids, by (layer, name)."""
        values: dict[tuple[int, str], Float32] = {}

        def keep(layer: int, name: str, rows: Tensor) -> None:
            values[layer, name] = rows[-1].numpy()

        self.decoded.hidden([ids], keep)
        return values

    def watched_logits(self) -> Iterator[tuple[slice, Logits]]:
        """The logits at all watched positions, in blocks of rows that are small enough to hold."""
        decoded, noisy = self._at_rows(self._decoded_states), self._states_at_rows(self._noisy)
        flipped = None if self._perturbed is None else (self._perturbed, self._states_at_rows(self._perturbed))
        watched = len(self._observation.rows)
        block = max(1, _LOGITS // self.decoded.dimensions.vocab)
        for start in range(0, max(watched, 1), block):
            rows = slice(start, start + block)
            logits = Logits(
                decoded=self.decoded.logits(decoded[rows]),
                noisy=self._noisy.logits(noisy[rows]),
                perturbed=None if flipped is None else flipped[0].logits(flipped[1][rows]),
                runtime=self._observation.logits(rows, self.decoded.logits),
            )
            yield rows, logits

    @cached_property
    def quantisation(self) -> QuantisationCost | None:
        """Checkpoint against decoded file at every position of the known sequences; None without a checkpoint."""
        original = self._original
        if original is None:
            return None
        known = self._observation.known
        states = original.hidden([sequence.ids for sequence in known])
        pairs = [_Pair(*both) for both in zip(known, states, self._decoded_known, strict=True)]
        natural = [pair for pair in pairs if pair.sequence.kind in _NATURAL]
        unnatural = [pair for pair in pairs if pair.sequence.kind in _UNNATURAL]
        positions, others = _over(original, self.decoded, natural), _over(original, self.decoded, unnatural)
        return QuantisationCost(
            summary(positions.kl, positions.same_top),
            summary(others.kl, others.same_top),
            _change_over_longest(natural, positions),
        )

    @cached_property
    def _original(self) -> Reference | None:
        source = self._candidate.source
        return None if source is None else reference_of(source)

    @cached_property
    def _noisy(self) -> Reference:
        """In float32 throughout: what the order and width of sums alone can change."""
        return replace(self.decoded, arithmetic="single")

    @cached_property
    def _perturbed(self) -> Reference | None:
        """With activations flipped on purpose; None where none are quantised."""
        types = {info.ggml_type for info in self._candidate.file.tensors.values()}
        return replace(self.decoded, arithmetic="perturbed") if I2_S in types else None

    @cached_property
    def _decoded_known(self) -> list[Float32]:
        return self.decoded.hidden([sequence.ids for sequence in self._observation.known])

    @cached_property
    def _decoded_states(self) -> list[Float32]:
        observed = self._observation.observed
        known = iter(self._decoded_known)
        free = iter(self.decoded.hidden([seen.ids for seen in observed if seen.sequence.kind in FREE]))
        return [next(free if seen.sequence.kind in FREE else known) for seen in observed]

    def _states_at_rows(self, reference: Reference) -> Float32:
        return self._at_rows(reference.hidden([seen.ids for seen in self._observation.observed]))

    def _at_rows(self, states: Sequence[Float32]) -> Float32:
        """(rows, hidden): of the states of all positions, those at which the runtime was watched."""
        observed = self._observation.observed
        rows = [state[step.position] for seen, state in zip(observed, states, strict=True) for step in seen.steps]
        return np.array(rows, dtype=np.float32).reshape(-1, self.decoded.dimensions.hidden)


@dataclass(frozen=True, slots=True)
class _Pair:
    """A sequence, and its hidden states at every position by checkpoint and by decoded file."""

    sequence: WatchedSequence
    original: Float32
    decoded: Float32

    @property
    def following(self) -> list[int]:
        """The token behind each position; any token behind the last one, where nothing follows."""
        return [*self.sequence.ids[1:], 0]


@dataclass(frozen=True, slots=True)
class _Positions:
    """Of every position, (positions,): KL(checkpoint || decoded file), and the following token's likelihood in both."""

    kl: Float64
    same_top: NDArray[np.bool_]
    original_nats: Float64
    decoded_nats: Float64


def _over(original: Reference, decoded: Reference, pairs: Sequence[_Pair]) -> _Positions:
    """Every position of these sequences, one behind the other."""
    if not pairs:
        return _Positions(np.empty(0), np.empty(0, dtype=np.bool_), np.empty(0), np.empty(0))
    expected = np.concatenate([pair.original for pair in pairs])
    found = np.concatenate([pair.decoded for pair in pairs])
    following = np.array([token for pair in pairs for token in pair.following], dtype=np.int64)
    blocks = []
    for start in range(0, len(expected), _POSITIONS):
        rows = slice(start, start + _POSITIONS)
        blocks.append(_block(original.logits(expected[rows]), decoded.logits(found[rows]), following[rows]))
    return _Positions(*(np.concatenate(column) for column in zip(*blocks, strict=True)))


def _block(
    original: Float32, decoded: Float32, following: NDArray[np.int64]
) -> tuple[Float64, NDArray[np.bool_], Float64, Float64]:
    kl, same_top = divergences(original, decoded)
    original_nats, decoded_nats = (negative_log_likelihoods(logits, following) for logits in (original, decoded))
    return kl, same_top, original_nats, decoded_nats


def _change_over_longest(pairs: Sequence[_Pair], positions: _Positions) -> LikelihoodChange | None:
    """The change on the longest of the sequences whose positions these are; None when none has two tokens."""
    lengths = [len(pair.sequence.ids) for pair in pairs]
    if max(lengths, default=0) < 2:
        return None
    longest = int(np.argmax(lengths))
    start = sum(lengths[:longest])
    rows = slice(start, start + lengths[longest] - 1)  # nothing follows the last one
    own = average(positions.original_nats[rows])
    return LikelihoodChange(average(positions.decoded_nats[rows]) - own, lengths[longest] - 1, own)
