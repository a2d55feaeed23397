"""Evidence: everything that the runtime and the references said about the passages, gathered once for all rungs."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from conform.contract.spec import Contract
from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import I2_S
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Request, Runtime, RuntimeFault, Step
from conform.parity.progress import Progress
from conform.parity.questions.sequences import FREE, Observed, Passage, PassageKind, Scope, observed_ids, plan_passages
from conform.parity.questions.start import Opening, find_opening
from conform.parity.questions.tokenizer import PromptTokenizer
from conform.parity.reference.dimensions import Dimensions, dimensions_of_file, dimensions_of_model
from conform.parity.reference.model import Reference
from conform.parity.reference.sampler import uncertain_temperature
from conform.parity.reference.weights import CheckpointWeights, FileWeights
from conform.plugins.registry import Registry

__all__ = ["Evidence", "Source", "Subject"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Source:
    """What the file was exported from."""

    checkpoint: Checkpoint
    contract: Contract


@dataclass(frozen=True, slots=True)
class Subject:
    """One runtime with one file, and what is known of where the file came from."""

    file: GGUFFile
    runtime: Runtime
    registry: Registry
    source: Source | None = None
    tokenizer: PromptTokenizer | None = None


class Evidence:
    """Lazily gathered; every property raises RuntimeFault when the runtime did not answer as it must."""

    def __init__(self, subject: Subject, scope: Scope, progress: Progress) -> None:
        self.subject = subject
        self.scope = scope
        self._progress = progress
        self._watched: dict[tuple[Request, int], tuple[Answer, Step]] = {}
        self._fault: RuntimeFault | None = None

    @cached_property
    def sizes(self) -> Dimensions:
        """The dimensions that the file declares."""
        return dimensions_of_file(self.subject.file)

    @cached_property
    def weights(self) -> FileWeights:
        """The decoded weights of the file."""
        return FileWeights(self.subject.file, self.subject.registry)

    @cached_property
    def decoded(self) -> Reference:
        """PyTorch over the decoded file."""
        return Reference(self.sizes, self.weights)

    @cached_property
    def original(self) -> Reference | None:
        """PyTorch over the checkpoint, where there is one."""
        source = self.subject.source
        if source is None:
            return None
        weights = CheckpointWeights(source.checkpoint, source.contract)
        return Reference(dimensions_of_model(source.contract.model), weights)

    @cached_property
    def passages(self) -> list[Passage]:
        """What the runtime is watched on."""
        return plan_passages(self.sizes, self.opening, self.subject.tokenizer, self.scope, self._temperature)

    @cached_property
    def opening(self) -> Opening:
        """What the runtime starts from."""
        return find_opening(self.subject.file, self.subject.tokenizer, lambda request: self.watch(request, 0)[1])

    def _temperature(self, ids: tuple[int, ...]) -> float:
        """The temperature at which the token after these is uncertain, so that a draw shows what the sampler does."""
        logits = self.decoded.logits(self.decoded.hidden([ids])[0][-1:])
        return uncertain_temperature(logits[0])

    @cached_property
    def observed(self) -> list[Observed]:
        """Every passage as the runtime ran it, one process per watched step."""
        if self._fault is not None:
            raise self._fault
        try:
            return self._observe()
        except RuntimeFault as fault:
            self._fault = fault  # a runtime that hangs is not asked again by every rung
            raise

    def _observe(self) -> list[Observed]:
        questions = [(passage, step) for passage in self.passages for step in passage.steps]
        answers = self.side_by_side("tracing the runtime", questions, lambda q: self.watch(q[0].request, q[1]))
        observed, start = [], 0
        for passage in self.passages:
            part = answers[start : start + len(passage.steps)]
            start += len(passage.steps)
            steps = tuple(step for _, step in part)
            ids = observed_ids(passage, steps, self.sizes)
            observed.append(Observed(passage, steps, ids, part[-1][0].text))
        return observed

    def watch(self, request: Request, step: int) -> tuple[Answer, Step]:
        """One watched step, run only as far as it goes; the same question is asked once."""
        question = (_up_to(request, step), step)
        if question not in self._watched:
            self._watched[question] = self.subject.runtime.step(*question)
        return self._watched[question]

    @cached_property
    def rows(self) -> list[tuple[Observed, Step]]:
        """Every watched step of every passage, in order."""
        return [(seen, step) for seen in self.observed for step in seen.steps]

    @cached_property
    def runtime_hidden(self) -> Float32:
        """(rows, hidden): the runtime's final hidden states."""
        return np.stack([step.hidden for _, step in self.rows])

    @cached_property
    def known(self) -> list[Passage]:
        """The passages whose tokens do not depend on what the runtime chooses."""
        return [passage for passage in self.passages if passage.kind not in FREE]

    @cached_property
    def decoded_known(self) -> list[Float32]:
        """The hidden states of the decoded file at every position of the known passages."""
        return self.decoded.hidden([passage.ids for passage in self.known])

    @cached_property
    def original_known(self) -> list[Float32] | None:
        """The same over the checkpoint."""
        return None if self.original is None else self.original.hidden([passage.ids for passage in self.known])

    @cached_property
    def decoded_states(self) -> list[Float32]:
        """The reference's hidden states over the decoded file, at every position of every passage."""
        known = iter(self.decoded_known)
        free = iter(self.decoded.hidden([seen.ids for seen in self.observed if seen.passage.kind in FREE]))
        return [next(free if seen.passage.kind in FREE else known) for seen in self.observed]

    @cached_property
    def noisy_states(self) -> list[Float32]:
        """The same in float32 throughout: what the order and width of sums alone can change."""
        return replace(self.decoded, arithmetic="single").hidden([seen.ids for seen in self.observed])

    @cached_property
    def perturbed_logits(self) -> Float32 | None:
        """(rows, vocab) of the reference with flipped activations; None where none are quantised."""
        if I2_S not in {info.ggml_type for info in self.subject.file.tensors.values()}:
            return None
        perturbed = replace(self.decoded, arithmetic="perturbed")
        return perturbed.logits(self.at_rows(perturbed.hidden([seen.ids for seen in self.observed])))

    @cached_property
    def decoded_logits(self) -> Float32:
        """(rows, vocab) of the reference over the decoded file."""
        return self.decoded.logits(self.at_rows(self.decoded_states))

    @cached_property
    def noisy_logits(self) -> Float32:
        """(rows, vocab) of the reference in float32 throughout."""
        return replace(self.decoded, arithmetic="single").logits(self.at_rows(self.noisy_states))

    @cached_property
    def runtime_logits(self) -> Float32:
        """(rows, vocab), from the runtime's hidden states and the file's output matrix."""
        return self.decoded.logits(self.runtime_hidden)

    def at_rows(self, states: Sequence[Float32]) -> Float32:
        """(rows, hidden): of the states of all positions, those that the runtime was watched at."""
        return np.stack(
            [state[step.position] for seen, state in zip(self.observed, states, strict=True) for step in seen.steps]
        )

    def rows_of(self, kind: PassageKind) -> list[list[int]]:
        """For each passage of that kind, the indices of its rows."""
        found, start = [], 0
        for seen in self.observed:
            if seen.passage.kind == kind:
                found.append(list(range(start, start + len(seen.steps))))
            start += len(seen.steps)
        return found

    def side_by_side(self, what: str, items: Iterable[_Item], question: Callable[[_Item], _Result]) -> list[_Result]:
        """The answers in order, asked on all cores; the first RuntimeFault ends the rest."""
        everything = list(items)
        answers: list[_Result] = []
        with ThreadPoolExecutor(os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()) as pool:
            pending = [pool.submit(question, item) for item in everything]
            try:
                for done, future in enumerate(pending, 1):
                    answers.append(future.result())
                    self._progress(what, done, len(everything))
            except BaseException:
                for future in pending:
                    future.cancel()
                raise
        return answers


def _up_to(request: Request, step: int) -> Request:
    """The same request, ended after that step: the tokens before it do not depend on those behind."""
    return replace(request, max_tokens=step + 1, forced=request.forced[:step])
