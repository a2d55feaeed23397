"""The Go sources: formatted, vetted, passing their own tests, tables as generated."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from conform.parity.goref.toolchain import GOREF_SOURCES, find_go, go_environment

ROOT = Path(__file__).parents[3]


def go(*arguments):
    command = [find_go().path, *arguments]
    return subprocess.run(command, cwd=GOREF_SOURCES, env=go_environment(), capture_output=True, text=True, check=False)


def test_sources_are_formatted():
    gofmt = Path(go("env", "GOROOT").stdout.strip()) / "bin" / "gofmt"
    done = subprocess.run([gofmt, "-l", "."], cwd=GOREF_SOURCES, capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize("command", [("vet", "./..."), ("test", "./...")], ids=["vet", "test"])
def test_go_finds_nothing_wrong(command):
    done = go(*command)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_standard_library_is_used():
    assert "require" not in (GOREF_SOURCES / "go.mod").read_text()


def test_the_committed_tables_are_what_the_generator_writes():
    done = subprocess.run([sys.executable, GOREF_SOURCES / "gen_tables.py", "--check"], check=False)
    assert done.returncode == 0


def test_every_source_file_is_package_data():
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    shipped = {path for pattern in patterns["conform.parity.goref"] for path in GOREF_SOURCES.glob(pattern)}
    assert {
        path for path in GOREF_SOURCES.rglob("*") if path.is_file() and path.suffix in {".go", ".mod", ".patch"}
    } <= shipped
