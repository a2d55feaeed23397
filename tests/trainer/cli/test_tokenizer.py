import json
import sys

import pytest

from conform.core.cli import main as cli


@pytest.fixture
def run(monkeypatch, capsys):
    """The command line in this process: exit status, stdout, stderr."""

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["conform", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, *capsys.readouterr()

    return called


def test_train_writes_the_tokenizer_and_shows_the_report(run, tmp_path, text_folder):
    status, out, _ = run("tokenizer", "train", "--input", text_folder, "--vocab", 512, "-o", tmp_path / "tok")
    assert status == 0
    assert {path.name for path in (tmp_path / "tok").iterdir()} == {"tokenizer.model", "recipe.toml", "report.json"}
    report = json.loads((tmp_path / "tok" / "report.json").read_text())
    assert report["sha256"] in out
    assert f"{report['fertility']:.3f}" in out


def test_train_prints_json(run, tmp_path, text_folder):
    status, out, _ = run("tokenizer", "train", "--input", text_folder, "--vocab", 512, "-o", tmp_path / "tok", "--json")
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "tok" / "report.json").read_text())


def test_check_answers_0_when_it_conforms(run, tokenizer_folder):
    status, out, _ = run("tokenizer", "check", tokenizer_folder)
    assert status == 0
    assert "conforms" in out


def test_check_answers_1_when_the_contract_wants_another(run, tokenizer_folder):
    status, out, _ = run("tokenizer", "check", tokenizer_folder, "--contract", "nano", "--json")
    assert status == 1
    assert [finding["expected"] for finding in json.loads(out)["findings"]] == ["2048 pieces"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "{tmp}/none"], "no such tokenizer"),
        (["check", "{tmp}/junk"], "not a SentencePiece model"),
        (["check", "{tok}", "--contract", "none"], "no such contract"),
        (["train", "--input", "{tmp}/none", "--vocab", "512", "-o", "{tmp}/out"], "no such file or folder"),
        (["train", "--input", "{tmp}/junk", "--vocab", "512", "-o", "{tmp}/out"], "is not UTF-8"),
        (["train", "--input", "{text}", "--vocab", "99999", "-o", "{tmp}/out"], "the largest possible is"),
        (["train", "--input", "{text}", "--vocab", "512", "-o", "{tok}"], "exists"),
        (["train", "--input", "{text}", "-o", "{tok}"], "Missing option '--vocab'"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(run, tmp_path, tokenizer_folder, text_folder, arguments, message):
    (tmp_path / "junk").write_bytes(b"\xfe\xff junk")
    filled = [part.format(tmp=tmp_path, tok=tokenizer_folder, text=text_folder) for part in arguments]
    status, out, err = run("tokenizer", *filled)
    assert status == 2
    assert out == ""
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
