"""The driver against a small program that speaks its protocol, and against programs that do not."""

import stat
import sys

import numpy as np
import pytest

from conform.core.runtime import Limits, Request, RuntimeFault, Sampling
from conform.core.verify.verify import open_gguf
from conform.parity.drivers.jsonlines import JsonLinesDriver

LIMITS = Limits(seconds=20.0, memory=1 << 30, output=1 << 20)
PROGRAM = """\
import base64, json, struct, sys

def floats(*values):
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode()

q = json.loads(sys.stdin.readline())
op = q["op"]
text = base64.b64encode((q.get("prompt", "") + "!").encode()).decode()
if op == "describe":
    print(json.dumps({"generator": "xorshift64*"}))
elif op == "answer":
    print(json.dumps({"text": text, "tokens": q["max_tokens"]}))
elif op == "step":
    values = {"0.Qcur": floats(1, 2)} if q["values"] else {}
    print(json.dumps({"text": text, "tokens": q["max_tokens"], "position": q["step"], "token": q["forced"][-1],
                      "layers": 2, "hidden": floats(0.1, -2.5), "values": values,
                      "argmax": 7, "argmax_logit": floats(3.5)}))
elif op == "tokenize":
    print(json.dumps({"ids": [1, len(q["text"]), q.get("seed", 0)]}))
else:
    print(json.dumps({"unsupported": True}))
"""


@pytest.fixture
def program(tmp_path, make_gguf, micro, registry):
    def make(code=PROGRAM):
        path = tmp_path / "runtime"
        path.write_text(f"#!{sys.executable} -I\n{code}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return JsonLinesDriver().open(path, open_gguf(make_gguf(micro, "f16"), registry), LIMITS)

    return make


def test_a_step_comes_back_as_it_was_computed(program):
    answer, step = program().step(Request("hello", 2, forced=(9,)), 1)
    assert (answer.text, answer.tokens) == (b"hello!", 2)
    assert (step.position, step.token, step.layers, step.argmax, step.argmax_logit) == (1, 9, 2, 7, 3.5)
    np.testing.assert_array_equal(step.hidden, np.array([0.1, -2.5], dtype=np.float32))
    assert step.values == {}


def test_logits_stand_in_for_a_hidden_state_that_is_not_shown(program):
    step = program(PROGRAM.replace('"hidden":', '"logits":')).step(Request("hello", 2, forced=(9,)), 1)[1]
    np.testing.assert_array_equal(step.logits, np.array([0.1, -2.5], dtype=np.float32))
    assert step.hidden.size == 0


def test_a_hidden_state_that_is_shown_is_what_counts(program):
    step = program(PROGRAM.replace('"hidden":', '"logits": floats(1), "hidden":')).step(Request("", 1, forced=(9,)), 0)[
        1
    ]
    assert step.hidden.size == 2
    assert step.logits is None


def test_vectors_of_layers_come_when_asked_for(program):
    step = program().step(Request("", 1, forced=(9,)), 0, values=8)[1]
    assert step.values[0, "Qcur"].tolist() == [1, 2]


def test_text_options_and_ids_pass_both_ways(program):
    runtime = program()
    assert runtime.answer(Request("naïve\n👍🏽", 3, Sampling(2, 0.5))).text == "naïve\n👍🏽!".encode()
    assert runtime.tokenize("abc") == (1, 3, 0)
    assert runtime.generator == "xorshift64*"


def test_what_it_cannot_tell_is_none(program):
    runtime = program()
    assert runtime.decoded_sha256("token_embd.weight") is None
    assert runtime.logits(Request("", 1), 0) is None


@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        ("print('no json')", "answered wrongly", "not one line of JSON"),
        ("print('[1]')", "answered wrongly", "not a JSON object"),
        ("print('{}')", "answered wrongly", "position|text"),
        ('print(\'{"error": "too long"}\')', "refused", "too long"),
        ("print('{\"unsupported\": true}')", "refused", "does not support 'step'"),
        ("raise SystemExit(1)", "refused", "exit status 1"),
        ("import os; os.abort()", "crashed", "SIGABRT"),
        ("print('[' * 100000)", "answered wrongly", "not one line of JSON"),
        (PROGRAM.replace('"layers": 2', '"layers": "2"'), "answered wrongly", "layers is '2'; expected int"),
        (PROGRAM.replace('"layers": 2', '"layers": True'), "answered wrongly", "layers is True"),
        (PROGRAM.replace("floats(0.1, -2.5)", "'AAA='"), "answered wrongly", "2 bytes"),
        (PROGRAM.replace("floats(0.1, -2.5)", "'****'"), "answered wrongly", "not base64"),
        (PROGRAM.replace('"tokens": q["max_tokens"], "pos', '"tokens": 9, "pos'), "answered wrongly", "9 tokens"),
        (PROGRAM.replace('"0.Qcur"', '"Qcur"'), "answered wrongly", "does not name a vector"),
    ],
)
def test_each_way_to_fail_is_told_apart(program, code, kind, reason):
    with pytest.raises(RuntimeFault, match=reason) as caught:
        program(code).step(Request("hello", 1, forced=(9,)), 0, values=1)
    assert caught.value.kind == kind
