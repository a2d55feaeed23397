"""The main job, end to end, by the commands that a user types: `make demo`, `milestone-1` and `milestone-2` run this.

    python demo/journey.py NAME [--text PATH]... [options of `conform train`]

A tokenizer and a model are trained on text (the sources of Python's standard library where nothing else is given), the
checkpoint is checked against its contract and exported to GGUF, each file is verified, and a real Go binary is judged
against PyTorch. A second run re-uses what the first one finished, and goes on where it was interrupted. Milestone 2
trains on all GPUs of the machine.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Journey:
    """One way through all commands; everything lies in `runs/NAME` and `runs/NAME-inputs`."""

    name: str
    contract: str
    config: str
    vocab: int
    quants: Sequence[str]
    parity: Sequence[str] = ()
    text: Sequence[str] = ("python-stdlib",)
    train: Sequence[str] = ()
    all_gpus: bool = False

    @property
    def run(self) -> Path:
        """The training run."""
        return Path("runs", self.name)

    @property
    def inputs(self) -> Path:
        """Tokenizer, token shards and the Go runtime."""
        return Path("runs", f"{self.name}-inputs")

    @property
    def verdict(self) -> Path:
        """Every number of the verdict."""
        return self.run / "verdict.json"


JOURNEYS = {
    "demo": Journey("demo", "nano+ternary", "demo", 2048, ("f16", "bf16", "i2_s")),
    "milestone-1": Journey(
        "milestone-1",
        "tiny",
        "tiny",
        32000,
        ("f32", "f16", "bf16", "q8_0", "iq*", "tq*", "i2_s"),
        ("--positions", "8", "--max-tokens", "8", "--longest", "128"),
    ),
    # 4.4 billion tokens are wanted: bring text.
    "milestone-2": Journey(
        "milestone-2",
        "medium",
        "medium",
        32000,
        ("f16", "bf16", "q8_0", "iq4_xs", "i2_s"),
        ("--positions", "8", "--max-tokens", "8", "--longest", "128"),
        text=(),
        all_gpus=True,
    ),
}


def main() -> int:
    """Run every step of the journey that was asked for; the exit status is the verdict's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("name", choices=JOURNEYS)
    parser.add_argument(
        "--text", action="append", help="text files, folders, JSONL or Parquet, as `conform data build`"
    )
    asked, train_options = parser.parse_known_args()
    journey = replace(JOURNEYS[asked.name], train=train_options)
    journey = replace(journey, text=asked.text or journey.text)
    if not journey.text:
        parser.error(f"{journey.name} needs more text than comes with Python: --text PATH")
    return travel(journey)


def travel(journey: Journey) -> int:
    """Every step, in order; the exit status is the verdict's."""
    began = time.monotonic()
    tokenizer, shards, go_bin = (journey.inputs / part for part in ("tokenizer", "shards", "bin/bitnet"))
    inputs = [word for path in journey.text for word in ("--input", path)]
    journey.inputs.mkdir(parents=True, exist_ok=True)
    if not (tokenizer / "tokenizer.model").exists():
        conform("tokenizer", "train", *inputs, "--vocab", journey.vocab, "-o", tokenizer)
    conform("data", "build", *inputs, "--tokenizer", tokenizer, "--held-out", "0.05", "-o", shards)
    train(journey, shards)
    checkpoint = sorted((journey.run / "checkpoints").glob("step-*"))[-1]
    conform("contract", "check", checkpoint, "--contract", journey.contract)
    conform("export", checkpoint, *(word for quant in journey.quants for word in ("--quant", quant)))
    files = sorted(checkpoint.glob("*.gguf"))
    for file in files:
        conform("verify", file, "--contract", journey.contract)
    build_go_runtime(go_bin)
    words = (*files, "--go-bin", go_bin, *journey.parity, f"--json={journey.verdict}")
    status = conform("parity", *words, check=False)
    if status > 1:  # no verdict at all
        return status
    say_what_was_shown(journey, checkpoint, go_bin, status, time.monotonic() - began)
    return status


def train(journey: Journey, shards: Path) -> None:
    """Start the run, or go on with it; a finished one says so and is left as it is."""
    if (journey.run / "config.toml").exists():
        words: list[object] = ["--resume", journey.run]
    else:
        words = ["--config", journey.config, "--contract", journey.contract, "--data", shards, "--out", journey.run]
    gpus = count_gpus() if journey.all_gpus else 1
    if gpus > 1:
        run("torchrun", "--nproc-per-node", gpus, "-m", "conform.core.cli", "train", *words, *journey.train)
    else:
        conform("train", *words, *journey.train)
    conform("train", "report", journey.run)


def count_gpus() -> int:
    """How many CUDA devices torch sees."""
    import torch

    return torch.cuda.device_count()


def conform(*arguments: object, check: bool = True) -> int:
    """Run one conform command, shown as the user would type it."""
    return run("conform", *arguments, check=check)


def run(program: str, *arguments: object, check: bool = True) -> int:
    """Run a program of the environment, shown as the user would type it; ends the journey when it fails."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ {program} {shlex.join(words)}", flush=True)
    status = subprocess.run([BIN / program, *words], check=False).returncode
    if check and status:
        sys.exit(status)
    return status


def build_go_runtime(go_bin: Path) -> None:
    """Compile the Go reference runtime and its companions, as any Go programmer would."""
    go = shutil.which("go") or shutil.which("go", path=str(BIN)) or sys.exit("no Go toolchain on PATH or in .venv")
    source = Path("parity/goref").resolve()
    command = [go, "build", "-o", str(go_bin.parent.resolve()) + os.sep, "./cmd/..."]
    print(f"\n$ cd parity/goref && go build -o {go_bin.parent}/ ./cmd/...", flush=True)
    # The module needs the standard library only: nothing is fetched.
    subprocess.run(command, cwd=source, check=True, env=os.environ | {"GOTOOLCHAIN": "local", "GOPROXY": "off"})


def say_what_was_shown(journey: Journey, checkpoint: Path, go_bin: Path, status: int, seconds: float) -> None:
    """The closing words: what was trained, what each file costs, what the verdict is, where everything lies."""
    held_out = json.loads((checkpoint / "conform.json").read_text())["held_out"]
    ratio = held_out["unigram_perplexity"] / held_out["perplexity"]
    verdicts = json.loads(journey.verdict.read_text())["verdicts"]
    print(f"""
What was shown, in {seconds:.0f} s:
- A {journey.contract} model was trained on {" and ".join(journey.text)}. On text that it never saw its perplexity is
  {held_out["perplexity"]:.1f}; that of token frequencies alone is {held_out["unigram_perplexity"]:.1f}, {ratio:.1f} \
times as much.
- Its checkpoint meets the frozen contract; {len(verdicts)} GGUF files were written from it and verified.
- A Go program that shares no code with PyTorch ran each of them and was compared position by position:
""")
    for verdict in verdicts:
        print(f"    {row(verdict)}")
    print(f"""
{"Every file conforms." if status == 0 else "Not every file conforms: see the rungs above that say FAIL."}
Files: {checkpoint} (checkpoint and GGUF files), {go_bin} (the Go runtime), {journey.verdict} (every number).""")


def row(verdict: Mapping[str, Any]) -> str:
    """One file: its verdict and the two ledgers."""
    ledgers = verdict["ledgers_nats_per_token"]
    costs = (f"{what} {kl(ledgers.get(what))}" for what in ("quantisation", "implementation"))
    word = "conforms" if verdict["conforms"] else "does not conform"
    return f"{Path(verdict['model']).name:28} {word:16}  KL in nats per token: {', '.join(costs)}"


def kl(ledger: Mapping[str, float] | None) -> str:
    """What one ledger says, or that it says nothing."""
    return f"{ledger['kl']:.1e}" if ledger and ledger.get("kl") is not None else "not measured"


if __name__ == "__main__":
    sys.exit(main())
