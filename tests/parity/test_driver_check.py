"""What a driver gets out of runtimes that answer rightly, wrongly, or not at all."""

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

from conform.core.errors import ConformError
from conform.core.runtime import Answer, Identity, Limits, RuntimeFault, Step, View
from conform.core.verify.verify import open_gguf
from conform.parity.driver_check import check_driver, driver_works, require_runtime
from conform.parity.drivers.bitnet_go import BitnetGoDriver
from conform.parity.drivers.jsonlines import JsonLinesDriver
from conform.parity.launcher import Launcher

VOCAB, HIDDEN = 512, 512


class Honest:
    """A runtime of made-up numbers that fit together."""

    generator = "unknown"
    identity = Identity("test", "/none", {})
    view = View(ids=True, logits=True, hidden=True, layers=True, tensors=True)

    def close(self):
        pass

    def answer(self, request):
        return Answer(request.prompt.encode() + b"!" * request.max_tokens, request.max_tokens)

    def step(self, request, step, *, values=0):
        token = request.forced[step - 1] if step else 9
        vectors = {(0, "Qcur"): np.zeros(values, np.float32)} if values else {}
        return self.answer(request), Step(1 + step, token, 2, np.zeros(HIDDEN, np.float32), 7, 1.0, vectors)

    def logits(self, request, position):
        return np.eye(VOCAB, dtype=np.float32)[7]

    def tokenize(self, text):
        return (1, 9)

    def decoded_sha256(self, tensor):
        return "0a" * 32


@pytest.fixture
def file(make_gguf, micro, registry):
    return open_gguf(make_gguf(micro, "f16"), registry)


def by_name(runtime, file):
    return {question.name: question for question in check_driver(runtime, file)}


def test_every_question_is_answered_by_an_honest_runtime(file):
    checked = by_name(Honest(), file)
    assert {question.status for question in checked.values()} == {"answered"}
    assert driver_works(list(checked.values()))
    assert checked["description"].said == (
        "observes text, ids, logits, hidden state, layers, tensors; its generator is unknown"
    )
    assert checked["ids"].said == "'a' is [1, 9]"


def test_what_is_not_in_view_is_not_asked(file):
    class Blind(Honest):
        view = View(hidden=True)
        tokenize = logits = decoded_sha256 = None

    checked = by_name(Blind(), file)
    silent = {name for name, question in checked.items() if question.status == "cannot tell"}
    assert silent == {"layers", "logits", "ids", "tensors"}
    assert driver_works(list(checked.values()))


def test_what_was_in_view_and_cannot_be_told_after_all_is_not_wrong(file):
    class Forgetful(Honest):
        def tokenize(self, text):
            return None

    assert by_name(Forgetful(), file)["ids"].status == "cannot tell"


def never(self, *_arguments, **_options):
    raise RuntimeFault("crashed", "always")


@pytest.mark.parametrize("question", ["answer", "step"])
def test_what_every_runtime_must_answer_is_required(file, question):
    checked = list(check_driver(type("Mute", (Honest,), {question: never})(), file))
    assert {one.name: one.said for one in checked}[question] == "crashed: always"
    assert not driver_works(checked)


def changed(**fields):
    """A step of Honest with these fields changed."""
    honest = Honest()

    def step(self, request, number, *, values=0):
        answer, watched = honest.step(request, number, values=values)
        return answer, dataclasses.replace(watched, **fields)

    return step


@pytest.mark.parametrize(
    ("name", "methods", "said"),
    [
        ("step", {"step": changed(argmax=VOCAB)}, "best token 512; the vocabulary has 512"),
        ("step", {"step": changed(token=-1)}, "token -1"),
        ("step", {"step": changed(hidden=np.zeros(3, np.float32))}, "expected 512 values, found 3"),
        ("step", {"step": changed(hidden=np.full(HIDDEN, np.nan, np.float32))}, "not all values are finite"),
        ("forced token", {"step": changed(token=9)}, "token 511 was forced; the next step ran token 9"),
        ("logits", {"logits": lambda *_: np.zeros(3, np.float32)}, "expected 512 values, found 3"),
        ("logits", {"logits": lambda *_: np.eye(VOCAB, dtype=np.float32)[8]}, "lies 1 behind that of 8"),
        ("ids", {"tokenize": lambda *_: (1, 2, 9)}, "token 9 was run at position 1"),
        ("ids", {"tokenize": lambda *_: (1, 8)}, "the ids are [1, 8], but token 9"),
        ("tensors", {"decoded_sha256": lambda *_: "nothing"}, "not a sha256"),
    ],
)
def test_a_wrong_answer_is_named(file, name, methods, said):
    checked = by_name(type("Wrong", (Honest,), methods)(), file)
    assert checked[name].status == "wrong"
    assert said in checked[name].said
    assert not driver_works(list(checked.values()))


def test_answers_that_differ_from_run_to_run_are_found(file):
    class Moody(Honest):
        turn = 0

        def answer(self, request):
            self.turn += 1
            return Answer(str(self.turn).encode(), request.max_tokens)

    assert by_name(Moody(), file)["answer"].said == "answered wrongly: asked twice, it printed '1' and '2'"


def test_goref_answers_everything(file, make_runtime):
    checked = list(check_driver(make_runtime(file.path), file))
    assert [(one.name, one.said) for one in checked if one.status != "answered"] == []


@pytest.mark.parametrize("driver", [BitnetGoDriver(), JsonLinesDriver()], ids=lambda driver: driver.name)
def test_a_program_that_says_nothing_is_not_a_runtime(file, driver):
    launcher = Launcher(driver, "gguf-conform", Path("/bin/true"), Limits(seconds=10.0))
    with pytest.raises(ConformError, match="/bin/true: not a runtime that the driver"):
        require_runtime(launcher.open(file), launcher)


@pytest.mark.parametrize("kind", ["refused", "crashed", "timed out"])
def test_a_runtime_that_fails_otherwise_is_for_the_verdict(file, kind):
    def fail(*_arguments):
        raise RuntimeFault(kind, "always")

    runtime = type("Failing", (Honest,), {"answer": fail})()
    require_runtime(runtime, Launcher(BitnetGoDriver(), "gguf-conform", Path(sys.executable), Limits()))
