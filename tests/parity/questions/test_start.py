"""A runtime is not judged wrong for what an empty prompt is to it; anything else at its start is found."""

import dataclasses

import pytest

from conform.core.runtime import RuntimeFault, Step
from conform.parity.goref.patch import Edit
from conform.parity.questions.start import StartPrompt, find_start_prompt
from conform.parity.questions.tokenizer import open_tokenizer
from conform.parity.selftest.faulty_runtimes import FaultyRuntime, build_faulty

ENCODE = "internal/vocab/vocabulary.go"
GUARD = '\tif text == "" {\n\t\treturn tokens\n\t}\n'
SPACE = FaultyRuntime("space", "an empty prompt is a space", "tokens", (Edit(ENCODE, GUARD, ""),))
MAIN = "cmd/bitnet/main.go"
TEXT = "\ttext := o.prompt\n"
REFUSAL = '\tif o.prompt == "" {\n\t\treturn "", fmt.Errorf("no prompt")\n\t}\n'
REFUSES = FaultyRuntime("refuses", "an empty prompt is refused", "tokens", (Edit(MAIN, TEXT, REFUSAL + TEXT),))


@pytest.mark.parametrize(("runtime", "note"), [(SPACE, "is a space to it"), (REFUSES, "refuses an empty prompt")])
def test_such_a_runtime_conforms_and_the_verdict_says_so(judged_file, make_gguf, make_checkpoint, micro, runtime, note):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), program=build_faulty(runtime))
    assert verdict.passed
    tokens = next(rung for rung in verdict.rungs if rung.rung == "tokens")
    assert any(note in said for said in tokens.notes)


@pytest.fixture
def file(make_gguf, micro, make_runtime):
    return make_runtime(make_gguf(micro, "f16"))._model


def stepping(position, token):
    return lambda _request: Step(position, token, 2, None, 0, 0.0)


def test_bos_alone_is_the_usual_start_prompt(file):
    assert find_start_prompt(file, None, stepping(0, 1)) == StartPrompt("", (1,))


def test_another_token_than_a_space_is_left_to_the_rungs(file):
    assert find_start_prompt(file, None, stepping(1, 5)) == StartPrompt("", (1,))
    assert find_start_prompt(file, None, stepping(0, 2)) == StartPrompt("", (1,))


@pytest.mark.parametrize("kind", ["crashed", "timed out", "answered wrongly"])
def test_a_fault_is_not_taken_for_a_habit(file, tokenizer_model, micro, kind):
    def fail(_request):
        raise RuntimeFault(kind, "for a test")

    assert find_start_prompt(file, open_tokenizer(tokenizer_model, micro.tokenizer), fail) == StartPrompt("", (1,))


def test_a_model_without_bos_starts_from_a_short_text(file, tokenizer_model, micro):
    file.metadata["tokenizer.ggml.add_bos_token"] = False
    tokenizer = open_tokenizer(tokenizer_model, dataclasses.replace(micro.tokenizer, add_bos=False))
    start = find_start_prompt(file, tokenizer, stepping(0, 1))
    assert (start.prompt, start.ids) == ("a", tokenizer.ids("a"))
    assert find_start_prompt(file, None, stepping(0, 1)) == StartPrompt("", ())
