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
    tried = {
        line.split(":")[1].split()[0]: int(line.split()[2]) for line in done.stdout.splitlines() if "crash:" in line
    }
    assert tried == dict.fromkeys(("export", "train", "data", "tokenizer", "imatrix"), 5)
