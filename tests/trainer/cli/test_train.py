"""What a process of torchrun says and ends with when its work ends without an answer."""

import os
import subprocess
import sys

import pytest

CODE = """
import sys
from conform.core.cli.main import main
from conform.trainer.cli import train
from conform.trainer.errors import TrainError

def work(request):
    {}

train._work = work
sys.argv = ["conform", "train", "--out", "run"]
main()
"""
CRASH = (
    "conform: internal error: ZeroDivisionError: division by zero; run `conform --traceback COMMAND …` to see where\n"
)
MISSING = "conform: this needs tensorboard, which is not installed: pip install 'gguf-conform[report]'\n"
NO_TORCH = MISSING.replace("tensorboard", "torch").replace("[report]", "[torch]")


@pytest.mark.parametrize(
    ("code", "rank", "status", "said"),
    [
        ("1 / 0", 0, 70, CRASH),
        ("1 / 0", 1, 70, CRASH),
        (
            "sys.exit(0)",
            0,
            70,
            "conform: internal error: SystemExit: 0; run `conform --traceback COMMAND …` to see where\n",
        ),
        ("raise TrainError('no data')", 0, 2, "conform: no data\n"),
        ("raise TrainError('no data')", 1, 2, ""),
        ("raise ModuleNotFoundError('no', name='tensorboard')", 0, 2, MISSING),
        ("raise ModuleNotFoundError('no', name='tensorboard')", 1, 2, ""),
        ("sys.modules['torch'] = None; import torch", 0, 2, NO_TORCH),
    ],
)
def test_a_process_of_torchrun_ends_with_one_line(code, rank, status, said):
    environment = {**os.environ, "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    command = [sys.executable, "-c", CODE.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (status, "", said)
