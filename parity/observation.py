"""Observation: what the runtime answered on the watched sequences, asked once for all rungs."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import TypeVar

import numpy as np

from conform.core.files.cores import usable_cores
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Request, RuntimeFault, Step
from conform.parity.candidate import Candidate
from conform.parity.progress import Progress
from conform.parity.questions.sequences import (
    FREE,
    ObservedSequence,
    Scope,
    SequenceKind,
    WatchedSequence,
    observed_ids,
    plan_sequences,
)
from conform.parity.questions.start import StartPrompt, find_start_prompt
from conform.parity.reference.dimensions import Dimensions, dimensions_of_file

__all__ = ["Observation"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Observation:
    """Gathered when first read; every property raises RuntimeFault when the runtime did not answer as it must.

    `temperature` returns the one at which the model is uncertain what follows these ids.
    """

    def __init__(
        self,
        candidate: Candidate,
        scope: Scope,
        temperature: Callable[[tuple[int, ...]], float],
        progress: Progress,
    ) -> None:
        self._candidate = candidate
        self._scope = scope
        self._temperature = temperature
        self._progress = progress
        self._watched: dict[tuple[Request, int], tuple[Answer, Step]] = {}
        self._fault: RuntimeFault | None = None

    @cached_property
    def sizes(self) -> Dimensions:
        """The dimensions that the file declares."""
        return dimensions_of_file(self._candidate.file)

    @cached_property
    def start(self) -> StartPrompt:
        """What the runtime starts from."""
        return find_start_prompt(self._candidate.file, self._candidate.tokenizer, self.first_step)

    @cached_property
    def sequences(self) -> list[WatchedSequence]:
        """What the runtime is watched on."""
        return plan_sequences(self.sizes, self.start, self._candidate.tokenizer, self._scope, self._temperature)

    @cached_property
    def known(self) -> list[WatchedSequence]:
        """The sequences whose tokens do not depend on what the runtime chooses."""
        return [sequence for sequence in self.sequences if sequence.kind not in FREE]

    @cached_property
    def observed(self) -> list[ObservedSequence]:
        """Every sequence as the runtime ran it, one question for each watched step."""
        if self._fault is not None:
            raise self._fault
        try:
            return self._observe()
        except RuntimeFault as fault:
            self._fault = fault  # a runtime that hangs is not asked again by every rung
            raise

    @cached_property
    def rows(self) -> list[tuple[ObservedSequence, Step]]:
        """Every watched step of every sequence, in order."""
        return [(seen, step) for seen in self.observed for step in seen.steps]

    def logits(self, rows: slice, output: Callable[[Float32], Float32]) -> Float32:
        """(rows, vocab): the logits that the runtime shows, else what `output` makes of its hidden states."""
        steps = [step for _, step in self.rows[rows]]
        hidden = [step.hidden for step in steps if step.logits is None]
        computed = iter(output(np.array(hidden, dtype=np.float32).reshape(-1, self.sizes.hidden)))
        logits = [next(computed) if step.logits is None else step.logits for step in steps]
        return np.array(logits, dtype=np.float32).reshape(-1, self.sizes.vocab)

    def rows_of(self, kind: SequenceKind) -> list[tuple[ObservedSequence, list[int]]]:
        """The sequences of that kind, each with the indices of its rows."""
        found, start = [], 0
        for seen in self.observed:
            if seen.sequence.kind == kind:
                found.append((seen, list(range(start, start + len(seen.steps)))))
            start += len(seen.steps)
        return found

    def first_step(self, request: Request) -> Step:
        """The decode step that runs the last token of the prompt."""
        return self._watch(request, 0)[1]

    def ask(self, what: str, items: Iterable[_Item], question: Callable[[_Item], _Result]) -> list[_Result]:
        """The answers in order, asked on all cores; the first RuntimeFault ends the rest."""
        everything = list(items)
        answers: list[_Result] = []
        with ThreadPoolExecutor(usable_cores()) as pool:
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

    def _observe(self) -> list[ObservedSequence]:
        questions = [(sequence.request, step) for sequence in self.sequences for step in sequence.steps]
        answers = iter(self.ask("tracing the runtime", questions, lambda question: self._watch(*question)))
        return [self._as_run(sequence, [next(answers) for _ in sequence.steps]) for sequence in self.sequences]

    def _as_run(self, sequence: WatchedSequence, answers: list[tuple[Answer, Step]]) -> ObservedSequence:
        steps = tuple(step for _, step in answers)
        return ObservedSequence(sequence, steps, observed_ids(sequence, steps, self.sizes), answers[-1][0].text)

    def _watch(self, request: Request, step: int) -> tuple[Answer, Step]:
        """One watched step, run only as far as it goes; the same question is asked once."""
        # Ended after that step: the tokens before it do not depend on those behind.
        shortened = replace(request, max_tokens=step + 1, forced=request.forced[:step])
        question = (shortened, step)
        if question not in self._watched:
            self._watched[question] = self._candidate.runtime.step(shortened, step)
        return self._watched[question]
