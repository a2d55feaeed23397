"""The papers keep up with the code: links lead somewhere, named files exist, shown commands are commands."""

import re
import shlex
from pathlib import Path

import click
import pytest

from conform.core.cli.main import cli

ROOT = Path(__file__).parents[1]
FOLDERS = "contract|core|plugins|parity|trainer|tests|docs|demo|bench|examples|torture"
PAPERS = sorted(
    [*ROOT.glob("*.md"), *(path for folder in FOLDERS.split("|") for path in (ROOT / folder).rglob("*.md"))]
)
# Files that a reader would make, named in examples.
INVENTED = {"NAME", "…", "*"}

every_paper = pytest.mark.parametrize("paper", PAPERS, ids=lambda path: path.relative_to(ROOT).as_posix())


@every_paper
def test_every_relative_link_leads_to_a_file(paper):
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", paper.read_text())
    assert [link for link in links if not (paper.parent / link).exists()] == []


@every_paper
def test_every_link_to_a_heading_finds_it(paper):
    links = re.findall(r"\]\(([^)#:\s]*)#([^)]+)\)", paper.read_text())
    assert [
        (file, anchor) for file, anchor in links if anchor not in anchors(paper.parent / file if file else paper)
    ] == []


def anchors(paper):
    """The headings of a page as a link names them: small letters, hyphens for spaces, nothing else."""
    headings = re.findall(r"^#+ (.*)$", paper.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_paper
def test_every_named_source_exists(paper):
    named = re.findall(rf"`((?:{FOLDERS})/[^`\s]*)`", paper.read_text())
    plain = {path for path in named if not any(word in path for word in INVENTED)}
    assert sorted(path for path in plain if not (ROOT / path.split("::")[0]).exists()) == []


@every_paper
def test_every_named_module_exists(paper):
    named = set(re.findall(rf"`conform\.((?:{FOLDERS})\.[\w.]+)(?:\(\))?`", paper.read_text()))
    assert sorted(name for name in named if not is_in_a_module(name)) == []


def is_in_a_module(dotted):
    """Whether the name is a module, or is mentioned in the one that it begins with."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:end])
        for source in (path.with_suffix(".py"), path / "__init__.py"):
            if source.exists():
                return end == len(parts) or re.search(rf"\b{parts[end]}\b", source.read_text()) is not None
    return False


@every_paper
def test_every_shown_command_has_the_options_that_are_shown(paper):
    wrong = [line for line in commands(paper.read_text()) if not is_command(shlex.split(line, comments=True)[1:])]
    assert wrong == []


def commands(text):
    """What calls conform: lines of code blocks, continued ones joined, and code within a sentence."""
    inline = re.findall(r"`(conform [^`]+)`", text)
    blocks = re.findall(r"^```(?:console)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    calls = [line.removeprefix("$ ").strip() for line in lines]
    return [
        call.split("   ")[0].replace("[", "").replace("]", "")
        for call in [*calls, *inline]
        if call.startswith("conform ")
    ]


def is_command(arguments):
    """Whether the words lead to a command that has every option among them."""
    command = cli
    while isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
        context = click.Context(command)
        # `conform imatrix CHECKPOINT` is short for `conform imatrix measure CHECKPOINT`.
        command = command.get_command(context, name) or command.get_command(context, "measure")
    known = {name for option in command.params for name in option.opts + option.secondary_opts} if command else set()
    given = {word.split("=")[0] for word in arguments if word.startswith("-")}
    return command is not None and given <= known | {"--help"}
