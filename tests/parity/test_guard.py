import sys
from pathlib import Path

import pytest

from conform.core.errors import GGUFError, PluginError
from conform.core.runtime import Identity, Limits, Request, RuntimeFault
from conform.parity.guard import GuardedRuntime, companions_of, open_guarded


class Failing:
    """A runtime and its driver, which raise what they are given."""

    name = "failing"
    identity = Identity("failing", "/none", {})

    def __init__(self, error):
        self.error, self.asked = error, 0

    @property
    def generator(self):
        return self.fail()

    def fail(self, *_arguments, **_options):
        self.asked += 1
        raise self.error

    @property
    def view(self):
        return self.fail()

    answer = step = logits = tokenize = decoded_sha256 = close = open = companions = fail


QUESTIONS = {
    "generator": lambda runtime: runtime.generator,
    "view": lambda runtime: runtime.view,
    "answer": lambda runtime: runtime.answer(Request("a", 1)),
    "step": lambda runtime: runtime.step(Request("a", 1), 0),
    "logits": lambda runtime: runtime.logits(Request("a", 1), 0),
    "tokenize": lambda runtime: runtime.tokenize("a"),
    "decoded_sha256": lambda runtime: runtime.decoded_sha256("a"),
}
by_question = pytest.mark.parametrize("what", QUESTIONS)


@by_question
@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(0), MemoryError(), GeneratorExit()], ids=repr)
def test_whatever_a_driver_raises_is_one_sentence_with_its_owner(what, error):
    runtime = GuardedRuntime(Failing(error), "driver failing of theirs 1.0")
    with pytest.raises(PluginError, match=f"^driver failing of theirs 1.0 failed in {what}: {type(error).__name__}"):
        QUESTIONS[what](runtime)


@pytest.mark.parametrize("error", [RuntimeFault("refused", "no"), GGUFError("bad"), KeyboardInterrupt()], ids=repr)
def test_what_a_driver_may_raise_passes(error):
    with pytest.raises(type(error)):
        GuardedRuntime(Failing(error), "driver").tokenize("a")


@by_question
def test_a_runtime_that_hangs_is_asked_once(what):
    failing = Failing(RuntimeFault("timed out", "no answer"))
    runtime = GuardedRuntime(failing, "driver")
    for question in (QUESTIONS[what], *QUESTIONS.values()):
        with pytest.raises(RuntimeFault, match="timed out"):
            question(runtime)
    assert failing.asked == 1


def test_a_runtime_that_hangs_is_closed_all_the_same():
    failing = Failing(RuntimeFault("timed out", "no answer"))
    runtime = GuardedRuntime(failing, "driver")
    for end in (lambda: runtime.tokenize("a"), runtime.close):
        with pytest.raises(RuntimeFault):
            end()
    assert failing.asked == 2


def test_a_runtime_that_refuses_is_asked_again():
    failing = Failing(RuntimeFault("refused", "no"))
    runtime = GuardedRuntime(failing, "driver")
    for _ in range(2):
        with pytest.raises(RuntimeFault):
            runtime.tokenize("a")
    assert failing.asked == 2


def test_a_driver_that_cannot_open_is_named():
    driver, program = Failing(ZeroDivisionError("by zero")), Path(sys.executable)
    with pytest.raises(PluginError, match="driver failing of theirs failed in open: ZeroDivisionError: by zero"):
        open_guarded(driver, "theirs", program, None, Limits())
    with pytest.raises(PluginError, match="failed in companions"):
        companions_of(driver, "theirs", program)
