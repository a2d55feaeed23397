"""What is gathered once, on a real file and a runtime that is made up: neither Go nor a whole verdict."""

import dataclasses
import hashlib
from collections import Counter

import numpy as np
import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.runtime import Answer, Identity, Limits, Request, RuntimeFault, Step, View
from conform.core.verify.verify import open_gguf
from conform.parity import source_check
from conform.parity.candidate import Candidate, Source
from conform.parity.evidence import Evidence
from conform.parity.judgement import judge
from conform.parity.progress import silent
from conform.parity.questions.sequences import Scope
from conform.parity.reference.weights import FileWeights
from conform.parity.rungs.source import judge_source
from conform.parity.rungs.weights import judge_weights
from conform.parity.source_check import check_source

BOS = 1
SCOPE = Scope(forced_positions=8, longest=16)


class Obedient:
    """Runs what is forced after BOS, and computes zeros."""

    generator = "unknown"
    identity = Identity("test", "/none", {})
    view = View()

    def __init__(self, sizes):
        self._layers, self._hidden = sizes
        self.asked = Counter()

    def answer(self, request: Request) -> Answer:
        return Answer(b"", request.max_tokens)

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        self.asked[request, step] += 1
        token = (BOS, *request.forced)[step]
        watched = Step(step, token, self._layers, np.zeros(self._hidden, np.float32), 0, 0.0)
        return self.answer(request), watched

    def logits(self, request, position):
        return None

    def tokenize(self, text):
        return None

    def decoded_sha256(self, tensor):
        return hashlib.sha256(tensor.encode()).hexdigest()


class Broken(Obedient):
    """Counts what it is asked, and answers nothing."""

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        self.asked[request, step] += 1
        raise RuntimeFault("crashed", "always")


class CountedWeights:
    """FileWeights that counts how often each tensor is decoded."""

    def __init__(self, weights: FileWeights) -> None:
        self._weights = weights
        self.decodings = Counter()

    def decoded(self, name):
        self.decodings[name] += 1
        return self._weights.decoded(name)


@pytest.fixture
def candidate(make_gguf, make_checkpoint, micro, registry):
    def make(runtime=Obedient, **keys):
        file = open_gguf(make_gguf(micro, "q8_0"), registry)
        file = dataclasses.replace(file, metadata={**file.metadata, **keys})
        source = Source(open_checkpoint(make_checkpoint(micro)), micro)
        return Candidate(file, runtime((micro.model.layers, micro.model.hidden)), registry, source)

    return make


def test_each_tensor_is_decoded_once_to_be_compared_and_hashed(candidate):
    evidence = Evidence(candidate(), SCOPE, silent)
    counted = evidence.references.weights = CountedWeights(evidence.references.weights)
    result = judge_weights(evidence.weights)
    names = list(candidate().file.tensors)
    assert counted.decodings == dict.fromkeys(names, 1)
    assert [finding.where for finding in result.findings] == names  # every digest is another
    assert result.compared == 2 * len(names)


def test_each_question_is_asked_once(candidate):
    judged = candidate()
    evidence = Evidence(judged, SCOPE, silent)
    rows = evidence.observation.rows
    assert evidence.comparison is evidence.comparison
    assert len(rows) == 5
    assert set(judged.runtime.asked.values()) == {1}
    assert judged.runtime.asked.total() == len(rows)


def test_a_runtime_that_fails_is_not_asked_again_by_the_next_rung(candidate):
    judged = candidate(Broken)
    evidence = Evidence(judged, SCOPE, silent)
    asked = []
    for _ in range(2):
        with pytest.raises(RuntimeFault):
            evidence.observation.rows  # noqa: B018 - a property that raises
        asked.append(judged.runtime.asked.total())
    assert asked[0] == asked[1] > 0


@pytest.fixture
def without_library(monkeypatch):
    """Where transformers is not installed."""
    check_source.cache_clear()
    monkeypatch.setattr(source_check, "library_is_installed", lambda: False)
    yield
    check_source.cache_clear()


def stranger(candidate):
    """The same candidate, its checkpoint not of conform's trainer."""
    checkpoint = candidate.source.checkpoint
    checkpoint.sidecar = dataclasses.replace(checkpoint.sidecar, trainer=None)
    return candidate


@pytest.mark.usefixtures("without_library")
def test_the_source_of_conforms_own_checkpoint_need_not_be_checked(candidate):
    result = judge_source(Evidence(candidate(), SCOPE, silent).source)
    assert result.status == "waived"
    assert result.reason == "not required, as conform trained it"
    assert result.notes == ("transformers is not installed: pip install 'gguf-conform[hf]'",)


@pytest.mark.usefixtures("without_library")
def test_the_source_of_a_strangers_checkpoint_must_be_checked_or_assumed(candidate):
    judged = stranger(candidate())
    unchecked = judge_source(Evidence(judged, SCOPE, silent).source)
    assert (unchecked.status, unchecked.suffices) == ("not run", False)
    assert unchecked.reason.startswith("source not checked: transformers is not installed: pip install")
    assumed = judge_source(Evidence(judged, SCOPE, silent, assume_source=True).source)
    assert (assumed.status, assumed.suffices) == ("waived", True)
    assert assumed.reason == "assumed, as --assume-source says"


@pytest.mark.usefixtures("without_library")
def test_what_was_not_checked_stands_in_the_receipt(candidate):
    verdict = judge(stranger(candidate(Broken)), SCOPE, Limits(), assume_source=True)
    source = verdict.receipt["source"]
    assert (source["checked"], source["waived"]) == (False, True)
    assert source["reason"].startswith("assumed, as --assume-source says: transformers is not installed")


def test_a_file_that_nothing_can_be_run_on_has_nothing_compared(candidate):
    """Neither a tokenizer nor BOS: no sequence at all, and a verdict that says so."""
    judged = candidate(**{"tokenizer.ggml.add_bos_token": False})
    verdict = judge(judged, SCOPE, Limits(), keep_going=True)
    implementation = next(rung for rung in verdict.rungs if rung.rung == "implementation")
    assert not verdict.passed
    assert implementation.reason == "nothing was compared"
