import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_commands_that_are_killed_or_fail_at_any_write_can_be_repeated():
    command = [sys.executable, "-m", "torture", "--campaign", "crash", "--sample", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith("crash: ")]
    assert [row[1] for row in rows] == ["export", "train", "data", "tokenizer", "imatrix"]
    assert all(row[2:] == ["5", "5", "0"] for row in rows)
