"""The session servers that docs/protocol.md shows, judged as any runtime: each conforms, in few processes."""

import shutil
import sys
from pathlib import Path

import pytest

from conform.core.runtime import Limits
from conform.core.verify.verify import open_gguf
from conform.parity.driver_check import check_driver, driver_works
from conform.parity.drivers.jsonlines import JsonLinesDriver
from conform.parity.goref.patch import patched_sources
from conform.parity.goref.toolchain import build_goref

EXAMPLES = Path(__file__).parents[3] / "examples"
GO_SERVER = EXAMPLES / "session_server_go"
MOST_PROCESSES = 5
LIMITS = Limits(seconds=60.0, memory=2 << 30)


@pytest.fixture(scope="module")
def servers(goref, tmp_path_factory):
    """Both by language, the Go one built as its first lines say; `blind` shows no hidden states, `warm` errs."""
    folder = tmp_path_factory.mktemp("servers")
    sources = patched_sources([], folder / "goref")
    shutil.copytree(GO_SERVER, sources / "cmd" / "session")
    shows_logits = {'r["hidden"]': 'r["logits"]', "floats(hidden)": "floats(logits)", ', "hidden"}': ', "logits"}'}
    warms_them = {"logits := must(llm.Logits(hidden))": "logits := must(llm.Logits(hidden)); logits[5] *= 1.01"}
    for name, changes in (("blind", shows_logits), ("warm", shows_logits | warms_them)):
        (sources / "cmd" / name).mkdir()
        (sources / "cmd" / name / "main.go").write_text(replaced((GO_SERVER / "main.go").read_text(), changes))
    command = f"{sys.executable} {EXAMPLES / 'session_server.py'}"
    go = build_goref("session", sources, folder)
    return {"go": str(go), "blind": str(go.with_name("blind")), "warm": str(go.with_name("warm")), "python": command}


def replaced(text, changes):
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@pytest.fixture
def counted(servers, tmp_path):
    """counted(name) is that server, which leaves a line for each process outside the folder where it is judged."""
    return lambda name: wrapped(servers[name], tmp_path)


@pytest.fixture(params=["go", pytest.param("python", marks=pytest.mark.slow)])
def server(request, counted):
    """Each server in turn."""
    return counted(request.param)


def wrapped(command, tmp_path):
    program = tmp_path / "server"
    program.write_text(f'#!/bin/sh\necho started >> {tmp_path / "starts"}\nexec {command} "$@"\n')
    program.chmod(0o755)
    return program


def test_a_server_conforms_and_few_processes_are_started(server, judged_file, make_gguf, make_checkpoint, micro):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), server, driver=JsonLinesDriver())
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]
    assert verdict.receipt["runtime"]["view"] == ["text", "ids", "hidden state"]
    assert len((server.with_name("starts")).read_text().splitlines()) <= MOST_PROCESSES


def test_logits_are_judged_where_hidden_states_are_not_shown(counted, judged_file, make_gguf, make_checkpoint, micro):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), counted("blind"), driver=JsonLinesDriver())
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]
    assert verdict.receipt["runtime"]["view"] == ["text", "ids", "logits"]


def test_wrong_logits_are_caught_where_hidden_states_are_not_shown(
    counted, judged_file, make_gguf, make_checkpoint, micro
):
    verdict = judged_file(make_gguf(micro, "f16"), make_checkpoint(micro), counted("warm"), driver=JsonLinesDriver())
    rungs = {rung.rung: rung for rung in verdict.rungs}
    assert rungs["implementation"].status == "fail"
    assert rungs["implementation"].compared > 0


def test_the_driver_gets_an_answer_to_what_a_server_says_it_observes(server, make_gguf, micro, registry):
    file = open_gguf(make_gguf(micro, "f16"), registry)
    runtime = JsonLinesDriver().open(server, file, LIMITS)
    checked = list(check_driver(runtime, file))
    runtime.close()
    assert driver_works(checked)
    silent = {question.name for question in checked if question.status == "cannot tell"}
    assert silent == {"layers", "logits", "tensors"}


@pytest.mark.parametrize("source", [GO_SERVER / "main.go", EXAMPLES / "session_server.py", EXAMPLES / "numpy_llama.py"])
def test_a_server_is_short_enough_to_be_read(source):
    assert len(source.read_text(encoding="utf-8").splitlines()) < 100
