import json

import click
import pytest
from click.testing import CliRunner

from conform.contract.finding import Finding
from conform.core.cli.console import print_findings, print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import check_replaceable, write_json, write_text_atomically
from conform.core.errors import ConformError


@click.command()
@click.argument("files", nargs=-1)
@json_option
def command(files, json_path):
    if not write_json({"files": files}, json_path):
        print_table(("file",), [(file,) for file in files])


def run(*arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_without_json_there_is_a_table():
    assert run("a", "b").output.split() == ["file", "a", "b"]


def test_json_alone_replaces_the_table():
    assert json.loads(run("a", "--json").output) == {"files": ["a"]}


def test_json_with_a_file_writes_it_beside_the_table(tmp_path):
    report = tmp_path / "verdict"
    assert "a" in run("a", "--json", report).output
    assert json.loads(report.read_text()) == {"files": ["a"]}


def test_an_old_report_is_replaced(tmp_path):
    (tmp_path / "old.json").write_text('{"old": 1}')
    assert run("a", "--json", tmp_path / "old.json").exit_code == 0
    assert json.loads((tmp_path / "old.json").read_text()) == {"files": ["a"]}


def test_a_swallowed_argument_is_never_overwritten(tmp_path):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF rest")
    result = run("--json", model)
    assert result.exit_code == 2
    assert "is no report" in result.output
    assert model.read_bytes() == b"GGUF rest"


@pytest.mark.parametrize("where", ["", "missing/report.json"])
def test_a_place_that_cannot_hold_a_report_is_refused_at_once(tmp_path, where):
    assert run("a", "--json", tmp_path / where).exit_code == 2


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ConformError, match="cannot be written"):
        write_text_atomically(tmp_path / "no folder" / "x", "text")


def test_control_characters_do_not_reach_the_terminal():
    assert "\x1b" not in run("\x1b[31mred").output


@pytest.mark.parametrize(
    ("content", "replaceable"), [(b"", True), (b"name = 1", True), (b"name", False), (b"x", False)]
)
def test_only_a_file_that_begins_alike_is_replaced(tmp_path, content, replaceable):
    check_replaceable(tmp_path / "none", "name = ")
    (tmp_path / "file").write_bytes(content)
    if replaceable:
        check_replaceable(tmp_path / "file", "name = ")
    else:
        with pytest.raises(ConformError, match="will not be overwritten"):
            check_replaceable(tmp_path / "file", "name = ")


def test_of_very_many_findings_the_first_are_printed(capsys):
    print_findings([Finding("error", f"tensor {number}", "none", "one") for number in range(1_002)])
    *rows, last = capsys.readouterr().out.splitlines()
    assert last == "and 2 more findings; --json lists them all"
    assert "tensor 999" in rows[-1]
