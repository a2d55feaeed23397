import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conform.contract.dump import dump_contract
from conform.contract.load import load_contract
from conform.trainer.data.build import build_data
from conform.trainer.run.metrics import read_metrics
from conform.trainer.tokenizer.recipe import train_tokenizer

MICRO = {
    "hidden": 64,
    "heads": 8,
    "kv_heads": 2,
    "head_dim": 16,
    "rope_dim": 16,
    "ffn": 128,
    "vocab": 512,
    "context": 64,
}
CONFORM = [sys.executable, "-m", "conform.core.cli"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


@pytest.fixture(scope="module", autouse=True)
def tidy_process():
    """Runs inside the test's process leave its memory and its algorithms to the tests that follow.

    They take the machine's peak for known: measuring it takes longer than such a run.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("conform.trainer.run.recorder.peak_flops", lambda device, dtype: 1e12)
        patch.setattr("conform.trainer.distributed.world.keep_freed_memory", lambda: True)
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """Token shards of the json package's sources, about 20,000 tokens of a vocabulary of 512."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "text").mkdir()
    text = "".join(path.read_text() for path in sorted(Path(json.__file__).parent.glob("*.py")))
    for number, start in enumerate(range(0, len(text), 500)):
        (folder / "text" / f"{number:03d}.txt").write_text(text[start : start + 500])
    train_tokenizer([str(folder / "text")], 512, folder / "tokenizer")
    build_data([str(folder / "text")], folder / "tokenizer", folder / "shards", shard_tokens=5000, held_out=0.1)
    return folder / "shards"


@pytest.fixture(scope="session")
def contracts(tmp_path_factory):
    """Paths of small contracts: dense, ternary, the one of bitnet-b1.58, and a dense one that i2_s can hold: wide."""
    folder = tmp_path_factory.mktemp("contracts")
    kinds = {"dense": "nano", "ternary": "nano+ternary", "bitnet": "nano+bitnet", "wide": "nano"}
    for name, reference in kinds.items():
        contract = load_contract(reference)
        sizes = MICRO | ({"hidden": 128} if name == "wide" else {})
        micro = dataclasses.replace(contract, name=name, model=dataclasses.replace(contract.model, **sizes))
        (folder / f"{name}.toml").write_text(dump_contract(micro))
    return folder


@pytest.fixture(scope="session")
def conform():
    """Run `conform …` in a process of its own: (exit status, stdout, stderr)."""

    def call(*arguments, timeout=120, launcher=CONFORM, **environment):
        done = subprocess.run(
            [*launcher, *map(str, arguments)],
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout,
            env=quiet(**environment),
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.fixture(scope="session")
def environment():
    """Environment variables for a process of its own."""
    return quiet()


@pytest.fixture(scope="session")
def torchrun():
    """The command line that runs `conform …` in several processes of this machine."""

    def line(processes, *arguments, restarts=0):
        agent = [*TORCHRUN, "--standalone", f"--nproc-per-node={processes}", f"--max-restarts={restarts}"]
        return [*agent, "-m", "conform.core.cli", *map(str, arguments)]

    return line


def quiet(**extra):
    """This process's environment, one thread a process, nothing of torchrun's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TORCHELASTIC", "MASTER_"))}
    for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        kept.pop(key, None)
    return {**kept, "OMP_NUM_THREADS": "1", **extra}


@pytest.fixture(scope="session")
def curve():
    """What a run computed, without what depends on the clock: one tuple a record."""

    def read(run):
        clock = {"seconds", "tokens_per_second", "mfu"}
        return [{key: value for key, value in record.items() if key not in clock} for record in read_metrics(run)]

    return read
