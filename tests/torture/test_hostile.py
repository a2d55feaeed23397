"""The campaign of hostile files at a fixed sample, and what counts as a failure; `make torture` tries for an hour."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from conform.core.errors import InputError

ROOT = Path(__file__).parents[2]
SAMPLE = 24  # the nine things in place of a file, then damaged bytes and structures


@pytest.fixture
def attempt(tmp_path, monkeypatch):
    """Let a reader of the corpus's contract meet the pipe in its place; what its failure says, "" for none."""
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.chdir(tmp_path)
    from torture.readers import Reader
    from torture.worker import _Worker

    return lambda read: _Worker(Reader("test", "contract", "contract.toml", read), 1, tmp_path).attempt(3)[1]


def test_every_reader_answers_hostile_files_with_one_sentence():
    command = [sys.executable, "-m", "torture", "--campaign", "hostile", "--sample", str(SAMPLE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    *_, tried, held, failed = done.stdout.replace(",", "").split()
    assert int(tried) == int(held) >= SAMPLE * 30
    assert failed == "0"


def test_success_and_one_sentence_are_answers(attempt):
    assert attempt(lambda folder: None) == ""
    assert attempt(raising(InputError("a: not a contract"))) == ""


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ValueError("x"), "ValueError: 'x'"),
        (SystemExit(0), "SystemExit: '0'"),
        (MemoryError(), "MemoryError"),
        (InputError("one\ntwo"), "InputError says 7 characters in 2 lines"),
        (InputError(""), "InputError says 0 characters"),
        (InputError("x" * 6000), "InputError says 6000 characters"),
    ],
)
def test_anything_else_is_a_failure(attempt, error, failure):
    assert attempt(raising(error)).startswith(failure)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address space is limited on Linux only")
def test_memory_that_the_file_does_not_justify_is_a_failure(attempt):
    assert attempt(lambda folder: bytearray(1 << 30)).startswith("MemoryError")


def test_a_hang_is_a_failure(attempt, monkeypatch):
    import torture.worker

    monkeypatch.setattr(torture.worker, "_SECONDS", 1)
    torture.worker.watch()
    assert attempt(lambda folder: time.sleep(30)) == "it takes more than 1 seconds"


def raising(error):
    def read(_folder):
        raise error

    return read
