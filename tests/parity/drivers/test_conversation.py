"""A session against a small server that keeps one, and against every way in which a server can break it."""

import json
import os
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from conform.core.runtime import Limits, Request, RuntimeFault, View
from conform.core.verify.verify import open_gguf
from conform.parity.drivers.conversation import MOST_SESSIONS
from conform.parity.drivers.jsonlines import JsonLinesDriver

LIMITS = Limits(seconds=20.0, memory=1 << 30, output=1 << 20)
SERVER = """\
import base64, json, os, sys, time

with open("{starts}", "a") as file:
    file.write("started\\n")
for asked, line in enumerate(sys.stdin):
    q = json.loads(line)
    if q["op"] == "describe":
        reply = {"session": 1, "generator": "xorshift64*", "observes": ["ids", "logits", "tensors"], "logprobs": 5}
    elif q["op"] == "tokenize":
        reply = {"ids": [asked, len(q["text"])]}
        BREAK
    elif q["op"] == "sha256":
        reply = {"error": "no such tensor"}
    else:
        reply = {"unsupported": True}
    print(json.dumps({"id": q.get("id"), **reply}), flush=True)
"""


@pytest.fixture
def server(tmp_path, make_gguf, micro, registry):
    """server(what) opens a server that does `what` before it answers `tokenize`."""
    opened = []

    def make(what="pass", limits=LIMITS, code=SERVER):
        path = tmp_path / "server"
        code = code.replace("{starts}", str(tmp_path / "starts")).replace("BREAK", what)
        path.write_text(f"#!{sys.executable} -I\n{code}")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        opened.append(JsonLinesDriver().open(path, open_gguf(make_gguf(micro, "f16"), registry), limits))
        return opened[-1]

    yield make
    for runtime in opened:
        runtime.close()


@pytest.fixture
def starts(tmp_path):
    return lambda: len((tmp_path / "starts").read_text().splitlines())


def test_one_process_says_what_it_is_and_another_answers_everything(server, starts):
    runtime = server()
    assert [runtime.tokenize("abc")[0] for _ in range(50)] == list(range(50))
    assert runtime.generator == "xorshift64*"
    assert starts() == 2


def test_what_it_observes_is_what_it_says(server):
    assert server().view == View(ids=True, logits=True, tensors=True, logprobs=5)


def test_what_it_says_that_it_does_not_show_is_not_asked_for(server, starts):
    runtime = server(code=SERVER.replace('"logits", "tensors"', '"hidden"'))
    assert runtime.logits(Request("", 1), 0) is None
    assert runtime.decoded_sha256("token_embd.weight") is None
    assert starts() == 1


def test_what_it_cannot_tell_and_what_it_refuses_leave_the_session_alone(server, starts):
    runtime = server()
    assert runtime.logits(Request("", 1), 0) is None
    with pytest.raises(RuntimeFault, match="refused: no such tensor"):
        runtime.decoded_sha256("token_embd.weight")
    assert runtime.tokenize("abc") == (2, 3)
    assert starts() == 2


def test_many_threads_share_one_process(server, starts):
    runtime = server()
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda n: runtime.tokenize("x" * n)[1], range(1, 60)))
    assert lengths == list(range(1, 60))
    assert starts() == 2


def test_a_question_longer_than_a_pipe_holds_arrives_whole(server):
    assert server().tokenize("x" * (1 << 20))[1] == 1 << 20


def test_closing_ends_the_process(server, tmp_path):
    runtime = server(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))")
    runtime.tokenize("abc")
    runtime.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_runtime_that_nobody_holds_any_more_ends_its_process(server, tmp_path, make_gguf, micro, registry):
    server(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))")
    runtime = JsonLinesDriver().open(tmp_path / "server", open_gguf(make_gguf(micro, "f16"), registry), LIMITS)
    runtime.tokenize("abc")
    del runtime
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_program_that_stays_when_its_stdin_ends_is_killed(server, tmp_path):
    stays = SERVER + "\nif q['op'] != 'describe': time.sleep(60)"
    runtime = server(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))", code=stays)
    runtime.tokenize("abc")
    started = time.monotonic()
    runtime.close()
    assert time.monotonic() - started < 15
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="descendants are followed through /proc")
def test_what_a_server_started_ends_with_it(server, tmp_path):
    code = "import os, time; os.setsid(); time.sleep(60)"
    runtime = server(
        f"import subprocess; child = subprocess.Popen([sys.executable, '-c', {code!r}])\n"
        f"        open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid))"
    )
    runtime.tokenize("abc")
    runtime.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize(
    ("what", "kind", "reason"),
    [
        ("sys.exit(0)", "answered wrongly", "ended with exit status 0 and did not answer"),
        ("sys.exit(1)", "refused", "exit status 1"),
        ("raise ZeroDivisionError('in the middle')", "crashed", "ZeroDivisionError: in the middle"),
        ("os.abort()", "crashed", "SIGABRT"),
        ("q['id'] += 1", "answered wrongly", "asked question 1, it answered 2"),
        ("q['id'] = str(q['id'])", "answered wrongly", "asked question 1, it answered '1'"),
        ("q['id'] = True", "answered wrongly", "it answered True"),
        ("del q['id']", "answered wrongly", "it answered None"),
        ("print('loading …')", "answered wrongly", "not one line of JSON|more than the one line"),
        ("print('[1]', flush=True)", "answered wrongly", "not a JSON object|more than the one line"),
        ("print('[' * 100000, flush=True)", "answered wrongly", "not one line of JSON|more than the one line"),
        ("print('x' * (1 << 21), end='')", "answered wrongly", "output too large"),
        ("print('x' * (1 << 21), file=sys.stderr)", "answered wrongly", "output too large"),
        ("os.close(1); sys.exit(3)", "answered wrongly", "exit status 3"),
        ("os.close(0); os.kill(os.getpid(), 11)", "crashed", "SIGSEGV"),
    ],
)
def test_each_way_to_break_a_session_is_told_apart_and_the_next_question_starts_anew(
    server, starts, what, kind, reason
):
    runtime = server(what)
    with pytest.raises(RuntimeFault, match=reason) as caught:
        runtime.tokenize("abc")
    assert caught.value.kind == kind
    assert runtime.logits(Request("", 1), 0) is None
    assert starts() == 3


@pytest.mark.parametrize(
    ("what", "kind", "reason"),
    [
        ("time.sleep(60)", "timed out", "no answer within 2 s"),
        ("os.close(1); os.close(2); time.sleep(60)", "timed out", "no answer within 2 s"),
        ("x = bytearray(1 << 29); x[::4096] = b'1' * len(x[::4096]); time.sleep(60)", "crashed", "memory|Memory"),
    ],
)
def test_limits_hold_for_each_question(server, what, kind, reason):
    runtime = server(what, limits=Limits(seconds=2.0, memory=256 << 20, output=1 << 20))
    with pytest.raises(RuntimeFault, match=reason) as caught:
        runtime.tokenize("abc")
    assert caught.value.kind == kind


def test_what_a_question_left_behind_is_not_the_answer_of_the_next(server):
    runtime = server("print(json.dumps({'id': q['id'], **reply}), flush=True)")
    found = []
    for _ in range(3):
        try:
            found.append(runtime.tokenize("abc"))
        except RuntimeFault as fault:
            found.append(fault.kind)
    assert "answered wrongly" in found


def test_a_program_that_never_survives_is_started_a_few_times_only(server, starts):
    runtime = server("os.abort()")
    for _ in range(20):
        with pytest.raises(RuntimeFault, match="SIGABRT") as caught:
            runtime.tokenize("abc")
        assert caught.value.kind == "crashed"
    assert starts() == 1 + MOST_SESSIONS == 5


def test_a_server_asked_once_and_then_left_is_a_one_shot_program(server):
    """Whoever asks a session server the old way, one line and the end of stdin, gets its answer."""
    runtime = server(code=SERVER.replace('"session": 1, ', ""))
    assert [runtime.tokenize("abc") for _ in range(2)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize(
    "said", [{"session": True}, {"session": 2}, {"observes": "ids"}, {"observes": ["sounds"]}, {"logprobs": -1}]
)
def test_a_description_that_cannot_be_right_is_not_believed(server, said):
    runtime = server(
        code=SERVER.replace("print(json", f"reply |= {said!r} if 'session' in reply else {{}}\n    print(json")
    )
    if said == {"session": 2}:
        assert runtime.tokenize("abc") == (0, 3)  # a protocol to come: asked in the way that every program knows
        return
    with pytest.raises(RuntimeFault) as caught:
        _ = runtime.view
    assert caught.value.kind == "answered wrongly"


def test_questions_are_plain_json(server, tmp_path):
    runtime = server(f"open({str(tmp_path / 'asked')!r}, 'w').write(line)")
    runtime.tokenize('naïve\n"quoted"')
    assert json.loads((tmp_path / "asked").read_text()) == {"id": 1, "op": "tokenize", "text": 'naïve\n"quoted"'}
