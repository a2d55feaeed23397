"""Evidence: what each rung reads, put together from the runtime's answers and from what the references say of them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from conform.contract.finding import Finding
from conform.contract.inventory import gguf_inventory
from conform.contract.rope import FACTOR_TOLERANCE
from conform.core.errors import InputError
from conform.core.quantizer import Float32
from conform.core.runtime import Request, RuntimeFault
from conform.core.verify import verify_file
from conform.core.verify.source import check_tokenizer, origin_digests
from conform.parity.candidate import Candidate, Source
from conform.parity.comparison import Comparison, Question, compare, joined
from conform.parity.observation import Observation
from conform.parity.progress import Progress
from conform.parity.questions.sequences import ObservedSequence, Scope
from conform.parity.questions.texts import texts_to_tokenize
from conform.parity.questions.tokenizer import pieces_as_text, printable_pieces
from conform.parity.reference.metrics import average, closeness
from conform.parity.references import References
from conform.parity.rungs.agreement import Agreement
from conform.parity.rungs.ceilings import kl_ceiling
from conform.parity.rungs.file import CheckedFile
from conform.parity.rungs.greedy import GreedyRun, GreedyToken
from conform.parity.rungs.implementation import Position, WatchedPositions
from conform.parity.rungs.likelihood import LikelihoodChanges, RuntimeChange
from conform.parity.rungs.localise import DivergingVector, first_diverging_vector
from conform.parity.rungs.quantisation import FileDivergence
from conform.parity.rungs.sampling import SampledRun
from conform.parity.rungs.source import CheckedSource, UncheckedSource
from conform.parity.rungs.tokens import PrintedPieces, Tokenisation, TokenisedText
from conform.parity.rungs.weights import StoredTensor, StoredWeights
from conform.parity.source_check import SourceCheck, check_source, source_sequences

__all__ = ["Evidence"]

# More than any intermediate vector has.
_ALL_VALUES = 1 << 20


class Evidence:
    """One property for each rung; each raises RuntimeFault when the runtime did not answer as it must.

    Every figure is computed once, when a rung first asks for it.
    """

    def __init__(self, candidate: Candidate, scope: Scope, progress: Progress, *, assume_source: bool = False) -> None:
        self._candidate = candidate
        self._scope = scope
        self._progress = progress
        self._assume_source = assume_source
        self.observation = Observation(candidate, scope, self._temperature, progress)
        self.references = References(candidate, self.observation)

    @property
    def file(self) -> CheckedFile:
        """What the verifier finds, and where the file says that it comes from."""
        file, source = self._candidate.file, self._candidate.source
        try:
            violations = list(verify_file(file.path, self._candidate.registry, self._candidate.contract).findings)
            if source and source.checkpoint.tokenizer_path:
                violations += check_tokenizer(file, source.checkpoint.tokenizer_path, source.contract)
        except InputError as error:
            violations = [Finding("error", str(file.path), "a file that can be checked", str(error))]
        entries = len(file.tensors) + len(file.metadata)
        origin = origin_digests(source.checkpoint, source.contract) if source else {}
        return CheckedFile(entries, violations, file.metadata, origin)

    @property
    def tokens(self) -> Tokenisation | None:
        """Every text tokenized by the runtime; None without a tokenizer to compare with."""
        tokenizer = self._candidate.tokenizer
        if tokenizer is None:
            return None
        start, runtime = self.observation.start, self._candidate.runtime
        texts = texts_to_tokenize(start, self._scope, tokenizer, self.observation.sizes.context)
        listed = self.observation.ask("tokenizing", texts, runtime.tokenize)
        steps = self.observation.ask(
            "running prompts", texts, lambda text: self.observation.first_step(Request(text, 1))
        )
        expected = [tokenizer.ids(text) if text else start.ids for text in texts]
        rows = zip(texts, expected, listed, steps, strict=True)
        tokenised = [TokenisedText(text, ids, found, step.position + 1, step.token) for text, ids, found, step in rows]
        return Tokenisation(tokenised, self._printed(), "; ".join(filter(None, (tokenizer.note, start.note))))

    @property
    def weights(self) -> StoredWeights | None:
        """Every tensor decoded once, and the runtime's digests of them; None without a checkpoint."""
        digests = self._runtime_digests()
        source = self._candidate.source
        if source is None:
            return None
        return StoredWeights(self._stored(source, digests), digests, source.contract.model.is_ternary)

    @cached_property
    def implementation(self) -> WatchedPositions:
        """What was measured at every watched position."""
        rows = self.observation.rows
        kinds = dict.fromkeys(sequence.kind for sequence in self.observation.sequences)
        return WatchedPositions(
            positions=[Position(seen.name, step.position) for seen, step in rows],
            watched={kind: sum(len(rows) for _, rows in self.observation.rows_of(kind)) for kind in kinds},
            agreement=self._agreement,
            best=self.comparison.best,
            debug_error=self._debug_error(),
        )

    @property
    def source(self) -> CheckedSource | UncheckedSource | None:
        """Conform's reading of the checkpoint beside another implementation's; None without a checkpoint."""
        check = self.source_check
        if check is None or isinstance(check.seen, CheckedSource):
            return check.seen if check else None
        return replace(check.seen, waiver=self._waiver())

    @cached_property
    def source_check(self) -> SourceCheck | None:
        """What another implementation computes over the checkpoint; None without one."""
        source = self._candidate.source
        if source is None:
            return None
        sequences = source_sequences(source, self._candidate.tokenizer, self._scope.longest)
        self._progress("asking transformers", 0, len(sequences))
        check = check_source(source, sequences)
        self._progress("asking transformers", len(sequences), len(sequences))
        return check

    @property
    def quantisation(self) -> FileDivergence | None:
        """Checkpoint against decoded file; None without a checkpoint."""
        source, cost = self._candidate.source, self.references.quantisation
        if source is None or cost is None:
            return None
        return FileDivergence(cost.natural, cost.unnatural, *kl_ceiling(self._candidate.file, source.contract))

    @property
    def greedy(self) -> Sequence[GreedyRun]:
        """The free-running sequences, each also run unwatched and with its tokens forced."""
        runs = self.observation.rows_of("greedy")
        requests = [request for seen, _ in runs for request in (seen.sequence.request, _forced(seen))]
        texts = iter(self._texts("generating", requests))
        return [
            GreedyRun(seen.name, self._greedy_tokens(seen, rows), seen.text, next(texts), next(texts))
            for seen, rows in runs
        ]

    @property
    def sampling(self) -> Sequence[SampledRun]:
        """The sampled sequences, each run a second time."""
        runs = self.observation.rows_of("sampled")
        repeated = self._texts("sampling again", [seen.sequence.request for seen, _ in runs])
        return [
            SampledRun(
                name=seen.name,
                sampling=seen.sequence.request.sampling,
                drawn=[step.token for step in seen.steps[1:]],
                logits=[self._kept[row] for row in rows[:-1]],
                ties=[self._agreement.tie(row) for row in rows[:-1]],
                text=seen.text,
                repeated=again,
            )
            for (seen, rows), again in zip(runs, repeated, strict=True)
        ]

    @property
    def likelihood(self) -> LikelihoodChanges:
        """The change of likelihood by the runtime, and by the file where there is a checkpoint."""
        source, cost = self._candidate.source, self.references.quantisation
        if source is None or cost is None:
            return LikelihoodChanges(self.runtime_change)
        ceiling, _ = kl_ceiling(self._candidate.file, source.contract)
        return LikelihoodChanges(self.runtime_change, cost.change, ceiling)

    @cached_property
    def runtime_change(self) -> RuntimeChange:
        """Over the forced prose."""
        for _, rows in self.observation.rows_of("text"):
            followed = rows[:-1]  # nothing follows the last one
            nats = {name: average(figures[followed]) for name, figures in self.comparison.likelihoods.items()}
            noise = abs(nats["noisy"] - nats["decoded"])
            return RuntimeChange(nats["runtime"] - nats["decoded"], noise, len(followed))
        return RuntimeChange(float("inf"), 0.0, 0)

    @property
    def diverging_vector(self) -> DivergingVector | None:
        """The first vector that is wrong, at the worst position, in one more run that is watched layer by layer."""
        seen, step = self.observation.rows[self._agreement.worst_row]
        number = step.position - seen.sequence.position(0)
        try:
            _, watched = self._candidate.runtime.step(_until(seen, step.position), number, values=_ALL_VALUES)
        except RuntimeFault:
            return None
        expected = self.references.vectors(seen.ids[: step.position + 1])
        return first_diverging_vector(expected, watched.values, step.position)

    @property
    def comparison(self) -> Comparison:
        """The figures of every watched position."""
        return self._compared[0]

    @property
    def _kept(self) -> Mapping[int, Float32]:
        """The reference's logits, (vocab,) each, of the rows that are judged by more than figures."""
        return self._compared[1]

    @cached_property
    def _compared(self) -> tuple[Comparison, Mapping[int, Float32]]:
        question = self._question()
        wanted = {row for _, rows in self.observation.rows_of("sampled") for row in rows} | {*self._debug_rows()[:1]}
        parts: list[Comparison] = []
        kept: dict[int, Float32] = {}
        for rows, logits in self.references.watched_logits():
            asked = Question(question.following[rows], question.best[rows], question.best_logit[rows])
            parts.append(compare(logits, asked))
            first = rows.start
            kept |= {row: logits.decoded[row - first].copy() for row in wanted if first <= row < rows.stop}
        return joined(parts), kept

    @cached_property
    def _agreement(self) -> Agreement:
        """Over every watched position; sampled runs are judged by their own rung."""
        judged = np.array([seen.sequence.kind != "sampled" for seen, _ in self.observation.rows], dtype=np.bool_)
        compared = self.comparison
        return Agreement(compared.runtime, compared.noise, compared.flips, judged)

    def _waiver(self) -> str:
        """Why a source that could not be checked is taken as it is read; "" where it is not."""
        if self._assume_source:
            return "assumed, as --assume-source says"
        source = self._candidate.source
        return "not required, as conform trained it" if source and source.trained_here else ""

    def _temperature(self, ids: tuple[int, ...]) -> float:
        return self.references.temperature(ids)

    def _question(self) -> Question:
        observed, rows = self.observation.observed, self.observation.rows
        return Question(
            following=np.array([token for seen in observed for token in seen.following], dtype=np.int64),
            best=np.array([step.argmax for _, step in rows], dtype=np.int64),
            best_logit=np.array([step.argmax_logit for _, step in rows], dtype=np.float64),
        )

    def _greedy_tokens(self, seen: ObservedSequence, rows: Sequence[int]) -> list[GreedyToken]:
        figures = self.comparison
        return [
            GreedyToken(
                chosen=chosen,
                claimed=step.argmax,
                best=int(figures.reference_best[row]),
                gap=float(figures.reference_gap[row]),
                tie=self._agreement.tie(row),
            )
            for row, step, chosen in zip(rows, seen.steps, seen.following, strict=True)
        ]

    def _texts(self, what: str, requests: Sequence[Request]) -> list[bytes]:
        return self.observation.ask(what, requests, lambda request: self._candidate.runtime.answer(request).text)

    def _debug_rows(self) -> list[int]:
        """The last row of each prompt, and behind them that of the random ids."""
        return [rows[-1] for kind in ("prompt", "random") for _, rows in self.observation.rows_of(kind)]

    def _debug_error(self) -> float | None:
        """The largest difference of the runtime's own logits over the vocabulary, at the end of one prompt."""
        if not (chosen := self._debug_rows()[:1]):
            return None
        seen, step = self.observation.rows[chosen[0]]
        request = _until(seen, step.position)
        found = self._candidate.runtime.logits(request, step.position)
        if found is None:
            return None
        return float(closeness(self._kept[chosen[0]][None], found[None]).max_abs[0])

    def _printed(self) -> PrintedPieces | None:
        """Pieces of every kind, forced behind the start prompt."""
        file, start = self._candidate.file, self.observation.start
        ids = printable_pieces(file)[: self.observation.sizes.context - len(start.ids)]
        if not ids:
            return None
        answer = self._candidate.runtime.answer(Request(start.prompt, len(ids), forced=ids))
        accepted = (start.prompt.encode() + pieces_as_text(file, ids, raw_bytes=raw) for raw in (False, True))
        return PrintedPieces(answer.text, tuple(accepted))

    def _runtime_digests(self) -> Mapping[str, str | None]:
        """The sha256 of every tensor as the runtime decodes it; empty where it cannot tell."""
        names, hashed = list(self._candidate.file.tensors), self._candidate.runtime.decoded_sha256
        if not names or hashed(names[0]) is None:
            return {}
        return dict(zip(names, self.observation.ask("hashing tensors", names, hashed), strict=True))

    def _stored(self, source: Source, digests: Mapping[str, str | None]) -> Iterator[StoredTensor]:
        """The contract's tensors, then those that the file alone has and the runtime hashed."""
        tensors, decoded = self._candidate.file.tensors, self.references.weights.decoded
        listed = {spec.gguf_name: spec for spec in gguf_inventory(source.contract.model)}
        for name, spec in listed.items():
            if name in tensors:
                kind, tolerance = tensors[name].ggml_type, FACTOR_TOLERANCE if spec.derived else 0.0
                yield StoredTensor(name, source.stored(spec), kind, decoded(name), tolerance)
            else:
                yield StoredTensor(name, None, None, None)
        for name in digests:
            if name not in listed:
                yield StoredTensor(name, None, tensors[name].ggml_type, decoded(name))


def _forced(seen: ObservedSequence) -> Request:
    """The same generation with the tokens that were chosen forced."""
    request = seen.sequence.request
    return Request(request.prompt, request.max_tokens, forced=tuple(seen.following))


def _until(seen: ObservedSequence, position: int) -> Request:
    """The same generation, ended at that position."""
    request, step = seen.sequence.request, position - seen.sequence.position(0)
    return replace(request, max_tokens=step + 1, forced=request.forced[:step])
