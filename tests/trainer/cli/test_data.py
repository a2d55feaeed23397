import json
import shutil
import subprocess
import sys

import pytest

from conform.core.cli import main as cli
from conform.trainer.cli.data import build_progress
from conform.trainer.data.build import build_data
from conform.trainer.data.manifest import manifest_digest, read_manifest


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit status, stdout, stderr."""

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["conform", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return called


@pytest.fixture
def build(run, tmp_path, text_folder, tokenizer_folder):
    def built(*more):
        places = ["--input", text_folder, "--tokenizer", tokenizer_folder, "-o", tmp_path / "out"]
        return run("data", "build", *places, "--held-out", 0.2, "--shard-tokens", 1000, *more)

    return built


def test_build_makes_the_data_and_shows_what_it_holds(build, tmp_path, built_data):
    status, out, err = build()
    assert status == 0
    assert err == ""
    assert manifest_digest(tmp_path / "out") == manifest_digest(built_data)
    assert manifest_digest(built_data) in out
    assert f"{read_manifest(built_data).train.tokens:,}" in out


def test_build_tells_of_its_progress_in_plain_lines_when_piped(tmp_path, text_folder, tokenizer_folder, capsys):
    with build_progress(seconds=0.0) as on_status:
        build_data([str(text_folder)], tokenizer_folder, tmp_path / "out", held_out=0.2, on_status=on_status)
    err = capsys.readouterr().err
    assert "bytes read" in err
    assert "\x1b" not in err


def test_show_prints_what_build_printed(build, run, tmp_path):
    _, built, _ = build("--json")
    status, shown, _ = run("data", "show", tmp_path / "out", "--json")
    assert status == 0
    assert json.loads(shown) == json.loads(built)


def test_show_is_a_table(run, built_data):
    status, out, _ = run("data", "show", built_data)
    assert status == 0
    assert "bos 1, its ids, eos 2" in out
    assert f"{read_manifest(built_data).unigram_perplexity:.2f}" in out


def test_verify_answers_0_when_it_conforms(run, built_data):
    status, out, _ = run("data", "verify", built_data)
    assert status == 0
    assert f"conforms; manifest {manifest_digest(built_data)}" in out


def test_verify_answers_1_and_names_the_shard(run, built_data, tmp_path):
    shutil.copytree(built_data, tmp_path / "data")
    (tmp_path / "data" / "train-00001.bin").unlink()
    status, out, _ = run("data", "verify", tmp_path / "data")
    assert status == 1
    assert "train-00001.bin" in out
    assert "does not conform" in out
    status, out, _ = run("data", "verify", tmp_path / "data", "--json")
    assert status == 1
    assert [finding["where"] for finding in json.loads(out)["findings"]] == ["train-00001.bin"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "{tmp}"], "manifest.json: cannot be read"),
        (["verify", "{tmp}/none"], "manifest.json: cannot be read"),
        (["build", "--input", "{tmp}/none", "--tokenizer", "{tok}", "-o", "{tmp}/out"], "no such file or folder"),
        (["build", "--input", "{tmp}", "--tokenizer", "{tok}", "-o", "{tmp}/out"], "no text in this folder"),
        (["build", "--input", "{text}", "--tokenizer", "{tmp}", "-o", "{tmp}/out"], "no such tokenizer"),
        (["build", "--input", "{text}", "--tokenizer", "{tmp}/junk", "-o", "{tmp}/out"], "not a SentencePiece model"),
        (["build", "--input", "{tmp}/junk", "--tokenizer", "{tok}", "-o", "{tmp}/out"], "junk: is not UTF-8"),
        (
            ["build", "--input", "{text}", "--tokenizer", "{tok}", "-o", "{tmp}/junk"],
            "is a file, but the shards need a folder",
        ),
        (["build", "--input", "{text}", "--tokenizer", "{tok}", "-o", "{tmp}/out", "--held-out", "7"], "a fraction"),
        (["build", "--input", "{text}", "--tokenizer", "{tok}", "-o", "{tmp}/out", "--on-bad", "pray"], "'pray'"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(run, tmp_path, tokenizer_folder, text_folder, arguments, message):
    (tmp_path / "junk").write_bytes(b"\xfe\xff junk")
    filled = [part.format(tmp=tmp_path, tok=tokenizer_folder, text=text_folder) for part in arguments]
    status, out, err = run("data", *filled)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_help_imports_nothing_heavy():
    program = """
import sys
from conform.trainer.cli import data as data_commands
from conform.trainer.cli import tokenizer as tokenizer_commands
for group in (data_commands.data, tokenizer_commands.tokenizer):
    for command in group.commands.values():
        command.main(["--help"], standalone_mode=False)
heavy = {"torch", "numba", "sentencepiece", "pyarrow", "zstandard"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)
