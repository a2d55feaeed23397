"""The campaign of hostile files at a fixed sample; `make torture` tries as many as fit into an hour."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = "24"  # the nine things in place of a file, then damaged bytes and structures


@pytest.mark.slow
def test_every_reader_answers_hostile_files_with_one_sentence():
    command = [sys.executable, "-m", "torture", "--campaign", "hostile", "--sample", SAMPLE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[-3].replace(",", "")) >= 24 * 30  # tried, held, failed


def test_a_crash_a_hang_and_a_death_are_counted_as_failures(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from torture.campaign import Row

    row = Row("a kind", 3, ("#1 bytes: ValueError",))
    assert (row.held, len(row.failures)) == (2, 1)
