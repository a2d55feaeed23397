"""conform parity as a user types it: exit status, messages, JSON."""

import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
from dataclasses import replace

import click
import pytest
import sentencepiece
from click.testing import CliRunner

from conform.core.checkpoint.sidecar import read_sidecar, write_sidecar
from conform.core.errors import ConformError
from conform.parity import source_check
from conform.parity.cli.parity import parity
from conform.parity.questions.prompts import PROSE
from conform.parity.source_check import check_source
from conform.plugins.host import load_registry

FEW = ["--max-tokens=4", "--positions=6", "--longest=24", "--timeout=30"]


def run(*arguments):
    """(exit status, output, error): as conform.core.cli.main.main would have it."""
    result = CliRunner().invoke(parity, [str(argument) for argument in arguments], standalone_mode=False)
    if isinstance(result.exception, ConformError):
        return 2, result.output, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.return_value, result.output, ""


@pytest.fixture(scope="module")
def gguf(make_gguf, micro_ternary):
    return make_gguf(micro_ternary, "i2_s")


def test_a_conforming_runtime_gives_zero_and_a_table(gguf, goref):
    status, output, error = run(gguf, "--go-bin", goref, *FEW)
    assert (status, error) == (0, "")
    assert "implementation  pass" in output
    assert output.rstrip().endswith("micro-i2_s.gguf: conforms")


def test_without_go_bin_goref_is_built(gguf):
    assert run(gguf, *FEW)[0] == 0


def test_without_files_the_newest_exports_are_judged(gguf, make_checkpoint, micro_ternary, tmp_path, monkeypatch):
    exported, newer = (tmp_path / "runs" / name / "checkpoints" / "step-00000001" for name in ("a", "b"))
    for folder in (exported, newer):
        shutil.copytree(make_checkpoint(micro_ternary), folder)
    shutil.copy(gguf, exported / "micro-i2_s.gguf")
    os.utime(newer / "conform.json", (2e9, 2e9))
    monkeypatch.chdir(tmp_path)
    status, output, _ = run(*FEW)
    assert status == 0
    assert output.count("micro-i2_s.gguf: conforms") == 1


def test_without_any_export_the_user_is_told_to_make_one(make_checkpoint, micro_ternary, tmp_path, monkeypatch):
    shutil.copytree(make_checkpoint(micro_ternary), tmp_path / "runs" / "a")
    for left in (tmp_path / "runs" / "a").glob("*.gguf"):
        left.unlink()
    monkeypatch.chdir(tmp_path)
    assert run(*FEW)[0] == 2
    assert "run `conform export` first" in run(*FEW)[2]


def test_the_report_goes_to_a_file(gguf, goref, tmp_path):
    report = tmp_path / "verdict.json"
    assert run(gguf, "--go-bin", goref, *FEW, "--json", report)[0] == 0
    data = json.loads(report.read_text())
    assert data["conforms"] is True
    assert data["verdicts"][0]["receipt"]["gguf"]["sha256"]


def test_json_alone_prints_nothing_else(gguf, goref):
    status, output, _ = run(gguf, "--go-bin", goref, *FEW, "--json=-")
    assert status == 0
    start = output.index("{")
    assert json.loads(output[start:])["conforms"] is True


@pytest.fixture
def strangers(gguf, make_checkpoint, micro_ternary, tmp_path, monkeypatch):
    """The file beside its checkpoint, which conform did not train, where transformers is not installed."""
    check_source.cache_clear()
    monkeypatch.setattr(source_check, "library_is_installed", lambda: False)
    shutil.copytree(make_checkpoint(micro_ternary), tmp_path, dirs_exist_ok=True)
    sidecar = read_sidecar(tmp_path)
    write_sidecar(tmp_path, replace(sidecar, trainer=None))
    yield tmp_path / gguf.name
    check_source.cache_clear()


def test_a_source_that_cannot_be_checked_does_not_conform_unless_it_is_assumed(strangers, goref, tmp_path):
    status, output, _ = run(strangers, "--go-bin", goref, *FEW)
    assert status == 1
    assert "does not conform: source: source not checked: transformers is not installed: pip install" in output
    report = tmp_path / "verdict.json"
    status, output, _ = run(strangers, "--go-bin", goref, "--assume-source", *FEW, "--json", report)
    assert status == 0
    assert re.search(r"source +waived +assumed, as --assume-source says", output)
    (verdict,) = json.loads(report.read_text())["verdicts"]
    assert verdict["receipt"]["source"]["waived"] is True


@pytest.fixture
def refusing(tmp_path):
    """A runtime that refuses every model."""
    program = tmp_path / "bitnet"
    program.write_text("#!/bin/sh\necho 'load model: refused' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program


def test_deviations_that_were_written_down_and_given_a_reason_are_accepted(gguf, refusing, tmp_path):
    expect, report = tmp_path / "expect.toml", tmp_path / "verdict.json"
    assert run(gguf, "--go-bin", refusing, *FEW, "--write-expect", expect)[0] == 1
    status, _, error = run(gguf, "--go-bin", refusing, *FEW, "--expect", expect)
    assert status == 2
    assert "expected why the deviation is accepted" in error
    expect.write_text(expect.read_text().replace('reason = ""', 'reason = "issue 7"'))
    status, output, error = run(gguf, "--go-bin", refusing, *FEW, "--expect", expect, "--json", report)
    assert (status, error) == (0, "")
    assert output.rstrip().endswith("micro-i2_s.gguf: conforms as expected")
    data = json.loads(report.read_text())
    assert (data["conforms"], data["as_expected"], data["verdicts"][0]["unexpected"]) == (False, True, [])
    assert "reasons in it" in run(gguf, "--go-bin", refusing, *FEW, "--write-expect", expect)[2]


def test_what_is_expected_and_no_longer_shows_gives_one(gguf, goref, refusing, tmp_path):
    expect = tmp_path / "expect.toml"
    run(gguf, "--go-bin", refusing, *FEW, "--write-expect", expect)
    expect.write_text(expect.read_text().replace('reason = ""', 'reason = "issue 7"'))
    status, output, _ = run(gguf, "--go-bin", goref, *FEW, "--expect", expect)
    assert status == 1
    assert "micro-i2_s.gguf: not as expected: expected, but it no longer shows: tokens: fault " in output


def test_a_runtime_that_fails_gives_one(gguf, tmp_path):
    program = tmp_path / "bitnet"
    program.write_text("#!/bin/sh\necho 'load model: refused' >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    status, output, _ = run(gguf, "--go-bin", program, *FEW)
    assert status == 1
    assert "does not conform: tokens: refused: exit status 1: load model: refused" in output


def test_a_prompt_of_the_users_is_examined(gguf, goref, tmp_path):
    report = tmp_path / "v.json"
    assert run(gguf, "--go-bin", goref, "--prompt", "a clock", *FEW, "--json", report)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.gguf"], "no such file"),
        (["{gguf}", "--go-bin", "none"], "no such file"),
        (["{gguf}", "--go-bin", "{gguf}"], "not executable"),
        (["{gguf}", "--checkpoint", "none"], "no such file or folder"),
        (["{gguf}", "--driver", "none"], "no such driver"),
        (["{gguf}", "--driver", "jsonlines"], "name it with --runtime"),
        (["{gguf}", "--tokenizer", "{gguf}"], "not a SentencePiece model"),
        (["{gguf}", "--prompt", "word " * 300], "the model's context is"),
        (["{text}"], "not a GGUF file"),
        (["{empty}"], "truncated|not a GGUF file"),
    ],
)
def test_what_a_user_gets_wrong_is_one_sentence(gguf, tmp_path, arguments, message):
    places = {"gguf": gguf, "text": tmp_path / "text.gguf", "empty": tmp_path / "empty.gguf"}
    places["text"].write_text("hello, world, this is no model")
    places["empty"].write_bytes(b"")
    status, _, error = run(*(argument.format(**places) for argument in arguments))
    assert status == 2
    assert "\n" not in error
    assert re.search(message, error)


def test_without_any_export_the_user_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, error = run()
    assert status == 2
    assert "runs" in error


def test_a_checkpoint_elsewhere_must_be_given(gguf, goref, tmp_path):
    alone = tmp_path / "alone.gguf"
    alone.write_bytes(gguf.read_bytes())
    status, output, _ = run(alone, "--go-bin", goref, *FEW)
    assert status == 1
    assert "give --checkpoint" in output


def test_a_broken_decoder_fails_the_rung_and_is_named(gguf, goref, monkeypatch):
    registry = load_registry()
    f32 = registry.quantizers["f32"]

    class Broken(type(f32)):
        def dequantize(self, packed, shape):
            if len(shape) == 1:  # a norm as the reference asks for it; what verify asks for has rows
                raise ZeroDivisionError("oops")
            return f32.dequantize(packed, shape)

    broken = replace(registry, quantizers={**registry.quantizers, "f32": Broken()})
    monkeypatch.setattr("conform.plugins.host.load_registry", lambda: broken)
    status, output, error = run(gguf, "--go-bin", goref, "--checkpoint", gguf.parent, *FEW)
    assert (status, error) == (1, "")
    blamed = r"_norm\.weight: quantizer f32 of gguf-conform \S+ failed to decode: ZeroDivisionError: oops"
    assert re.search(blamed, " ".join(output.split()))


@pytest.mark.parametrize("limit", ["0", "much", "8X", "-1G"])
def test_a_memory_limit_must_be_one(gguf, limit):
    with pytest.raises(click.BadParameter):
        CliRunner().invoke(
            parity, [str(gguf), f"--memory-limit={limit}"], standalone_mode=False, catch_exceptions=False
        )


def test_a_tokenizer_of_another_model_is_refused(gguf, tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([f"{PROSE} {number}" for number in range(9)]),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        num_threads=1,
        minloglevel=2,
    )
    foreign = tmp_path / "tokenizer.model"
    foreign.write_bytes(model.getvalue())
    status, _, error = run(gguf, "--tokenizer", foreign)
    assert status == 2
    assert "600 pieces" in error


def test_help_imports_no_torch():
    code = "import sys, conform.parity.cli.parity; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_driver_is_checked_question_by_question(gguf, goref, tmp_path):
    report = tmp_path / "check.json"
    status, output, _ = run(gguf, "--go-bin", goref, "--check-driver", "--json", report)
    assert status == 0
    assert "'a' is [" in output
    assert output.splitlines()[-1] == "the driver works"
    assert [one["status"] for one in json.loads(report.read_text())["files"][0]["questions"]] == ["answered"] * 9


def test_a_program_that_is_no_runtime_is_found_out_at_the_start(gguf):
    status, output, _ = run(gguf, "--go-bin", "/bin/true", "--check-driver")
    assert status == 1
    assert output.splitlines()[-1] == "the driver does not work"
    status, _, error = run(gguf, "--go-bin", "/bin/true", *FEW)
    assert status == 2
    assert "/bin/true: not a runtime that the driver bitnet-go can talk to" in error


@pytest.mark.parametrize(
    "wrong", [["none.gguf"], ["{gguf}", "--go-bin=none"], ["{gguf}", "--driver=none"], ["{gguf}", "--check-driver"]]
)
def test_what_is_named_wrongly_is_found_before_torch_is_loaded_or_goref_built(gguf, wrong):
    code = (
        "import sys, conform.parity.launcher as launcher, conform.parity.cli.parity as command\n"
        "def build(): sys.exit('built')\n"
        "launcher.build_goref = build\n"
        "try: command.parity(sys.argv[1:], standalone_mode=False)\n"
        "except Exception as error: print(error)\n"
        "sys.exit('loaded' if 'torch' in sys.modules else 3)"
    )
    arguments = [argument.format(gguf=gguf) for argument in wrong]
    if "--check-driver" in wrong:
        arguments.append("--go-bin=/bin/true")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr + done.stdout


def damaged(gguf, target, change):
    content = bytearray(gguf.read_bytes())
    change(content)
    target.write_bytes(bytes(content))
    return target


@pytest.mark.parametrize("length", [3, 24, 5000])
def test_a_truncated_file_is_one_sentence(gguf, goref, tmp_path, length):
    short = damaged(gguf, tmp_path / "short.gguf", lambda content: content.__delitem__(slice(length, None)))
    status, _, error = run(short, "--go-bin", goref, "--checkpoint", gguf.parent, *FEW)
    assert status == 2
    assert "truncated" in error


def test_a_file_that_ends_within_its_data_does_not_conform(gguf, goref, tmp_path):
    short = damaged(
        gguf, tmp_path / "short.gguf", lambda content: content.__delitem__(slice(len(content) - 4096, None))
    )
    status, output, error = run(short, "--go-bin", goref, "--checkpoint", gguf.parent, "--keep-going", *FEW)
    assert (status, error) == (1, "")
    assert "does not conform: file" in output
