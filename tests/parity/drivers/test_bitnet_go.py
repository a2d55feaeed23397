"""The driver against programs that misbehave, and against the real Go runtime."""

import hashlib
import stat
from dataclasses import replace

import numpy as np
import pytest

from conform.core.runtime import Limits, Request, RuntimeFault, Sampling, View
from conform.core.verify.verify import open_gguf
from conform.parity.errors import RuntimeDriverError

QUICK = Limits(seconds=20.0, memory=1 << 30, output=1 << 20)


@pytest.fixture(scope="module")
def gguf(make_gguf, micro):
    return make_gguf(micro, "f16")


@pytest.fixture
def script(tmp_path, gguf, make_runtime):
    """script(text) is a runtime whose program is that shell script; {model} stands for the file's path."""

    def make(text, limits=QUICK):
        path = tmp_path / "bitnet"
        path.write_text("#!/bin/sh\n" + text.replace("{model}", str(gguf)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return make_runtime(gguf, path, limits)

    return make


def fault(runtime, **options):
    with pytest.raises(RuntimeFault) as caught:
        runtime.step(Request("hello", 1), 0, **options)
    return caught.value.kind, caught.value.reason


def test_the_real_runtime_answers(gguf, make_runtime):
    answer, step = make_runtime(gguf).step(Request("hello", 2), 1)
    assert answer.text.startswith(b"hello")
    assert answer.tokens == 2
    assert step.layers == 2
    assert step.hidden.shape == (512,)


def test_ids_and_tensors_are_in_view_where_the_companions_are(gguf, script, make_runtime):
    alone = View(logits=True, hidden=True, layers=True)
    assert script("true").view == alone
    assert make_runtime(gguf).view == replace(alone, ids=True, tensors=True)


def test_a_forced_token_is_the_next_input(gguf, make_runtime):
    _, step = make_runtime(gguf).step(Request("", 3, forced=(11, 77)), 2)
    assert (step.position, step.token) == (2, 77)


def test_watching_does_not_change_the_answer(gguf, make_runtime):
    runtime = make_runtime(gguf)
    request = Request("The harbour", 6, Sampling(3, 1.0))
    assert runtime.step(request, 5)[0] == runtime.answer(request)


def test_all_values_of_all_layers_come_when_asked_for(gguf, make_runtime):
    values = make_runtime(gguf).step(Request("hello", 1), 0, values=1 << 20)[1].values
    assert values[1, "Qcur"].shape == (384,)
    assert values[0, "ffn_act"].shape == (256,)


def test_debug_logits_cover_the_vocabulary(gguf, make_runtime):
    runtime = make_runtime(gguf)
    logits = runtime.logits(Request("", 1), 0)
    _, step = runtime.step(Request("", 1), 0)
    assert logits.shape == (512,)
    assert np.argmax(logits) == step.argmax


def test_a_decoded_tensor_has_the_digest_of_its_floats(gguf, make_runtime, registry):
    runtime = make_runtime(gguf)
    file = open_gguf(gguf, registry)
    values = file.packed("output_norm.weight")
    assert runtime.decoded_sha256("output_norm.weight") == hashlib.sha256(values.tobytes()).hexdigest()


@pytest.mark.parametrize("prompt", ["-n", "--help", "a b", 'say "%q"', "\n\t", "naïve 👍🏽", "'; exit 9 #", "\x01"])
def test_any_prompt_reaches_the_runtime_as_it_is(gguf, make_runtime, prompt):
    assert make_runtime(gguf).answer(Request(prompt, 1)).text.startswith(prompt.encode())


def test_a_missing_program_is_one_sentence(gguf, make_runtime, tmp_path):
    with pytest.raises(RuntimeDriverError, match="no such file"):
        make_runtime(gguf, tmp_path / "none")


def test_a_program_that_is_not_executable_is_one_sentence(gguf, make_runtime, tmp_path):
    program = tmp_path / "bitnet"
    program.write_text("text")
    with pytest.raises(RuntimeDriverError, match="not executable"):
        make_runtime(gguf, program)


def test_a_folder_is_no_program(gguf, make_runtime, tmp_path):
    with pytest.raises(RuntimeDriverError):
        make_runtime(gguf, tmp_path)


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        ("echo '2026/01/01 00:00:00 load model: no' >&2; exit 1", "refused", "exit status 1: load model: no"),
        ("echo 'flag provided but not defined' >&2; exit 2", "refused", "flag provided"),
        ("echo 'panic: index out of range' >&2; exit 2", "crashed", "panic: index out of range"),
        ("echo 'fatal error: all goroutines are asleep' >&2; exit 2", "crashed", "fatal error"),
        ("echo 'runtime: out of memory' >&2; exit 2", "crashed", "out of memory"),
        ("kill -SEGV $$", "crashed", "SIGSEGV"),
        ("exit 77", "answered wrongly", "exit status 77, nothing on stderr"),
        ("exec sleep 60", "timed out", "--timeout"),
        ("exec cat /dev/zero", "answered wrongly", "output too large"),
        ("yes | head -c 100000", "answered wrongly", "stdout is not the one line"),
        ("true", "answered wrongly", "stdout is not the one line"),
        ("echo 'model=other arch=llama gguf_version=3'", "answered wrongly", "stdout is not the one line"),
        ("printf '\\377\\376\\000'", "answered wrongly", "stdout is not the one line"),
    ],
)
def test_each_way_to_fail_is_told_apart(script, text, kind, reason):
    found_kind, found_reason = fault(script(text, Limits(seconds=3.0, memory=1 << 30, output=1 << 20)))
    assert found_kind == kind
    assert reason in found_reason


ANSWER = "model={model} arch=llama gguf_version=3 tensors=20 kv=%d ctx=128 vocab=512 tokens=%d output=%s"


def answer(kv, tokens=1, output='"hello world"'):
    return f"cat <<'END'\n{ANSWER % (kv, tokens, output)}\nEND"


def test_an_answer_without_a_trace_is_not_believed(script, kv):
    assert script(answer(kv)).answer(Request("hello", 1)).text == b"hello world"
    kind, reason = fault(script(answer(kv)))
    assert kind == "answered wrongly"
    assert "nothing shows that it ran the model" in reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": 2}, "tokens=2; expected 1"),
        ({"output": '"goodbye"'}, "does not begin with the prompt"),
        ({"output": '"hello'}, "stdout is not the one line"),
        ({"output": '"hello \\q"'}, "not quoted"),
        ({"kv": 3}, "kv=3"),
    ],
)
def test_every_field_of_the_answer_is_checked(script, kv, change, reason):
    with pytest.raises(RuntimeFault, match=reason):
        script(answer(**{"kv": kv, **change})).answer(Request("hello", 1))


def test_fields_in_the_output_do_not_forge_fields(script, kv):
    forged = script(answer(kv, output='"hello tokens=9 output=\\"x\\""'))
    assert forged.answer(Request("hello", 1)).text == b'hello tokens=9 output="x"'


def test_a_second_line_is_a_wrong_answer(script, kv):
    assert fault(script(answer(kv) + "\necho more"))[0] == "answered wrongly"


@pytest.fixture(scope="module")
def kv(gguf, registry):
    return len(open_gguf(gguf, registry).metadata)


def test_without_companions_nothing_is_made_up(script):
    runtime = script("exit 1")
    assert runtime.tokenize("text") is None
    assert runtime.decoded_sha256("token_embd.weight") is None


def test_the_identity_names_program_and_digests(gguf, make_runtime, goref):
    identity = make_runtime(gguf).identity
    assert identity.program == str(goref)
    assert identity.digests["bitnet"] == hashlib.sha256(goref.read_bytes()).hexdigest()
    assert set(identity.digests) == {"bitnet", "tokenize", "ggufhash"}
