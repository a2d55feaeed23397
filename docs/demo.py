"""The main job, end to end, by the commands that a user types: `make demo` runs this.

A tokenizer and a small ternary Llama-style model are trained on the sources of Python's standard library, the
checkpoint is checked against its contract and exported to GGUF in three quantisations, each file is verified, and a
real Go binary is judged against PyTorch. A second run re-uses the tokenizer, the shards and the finished training.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

BIN = Path(sys.executable).parent
CONTRACT = "nano+ternary"
QUANTS = ("f16", "bf16", "i2_s")
OUT = Path("runs/demo")
TOKENIZER = OUT / "tokenizer"
SHARDS = OUT / "shards"
GO_BIN = OUT / "bin" / "bitnet"


def main() -> int:
    """Run every step; the exit status is the verdict's."""
    began = time.monotonic()
    OUT.mkdir(parents=True, exist_ok=True)
    if not (TOKENIZER / "tokenizer.model").exists():
        conform("tokenizer", "train", "--input", "python-stdlib", "--vocab", "2048", "-o", TOKENIZER)
    if not (SHARDS / "manifest.json").exists():
        conform("data", "build", "--input", "python-stdlib", "--tokenizer", TOKENIZER, "-o", SHARDS)
    conform("train", "--config", "demo", "--contract", CONTRACT, "--data", SHARDS, "--out", OUT / "run")
    checkpoint = sorted((OUT / "run" / "checkpoints").glob("step-*"))[-1]
    conform("contract", "check", checkpoint, "--contract", CONTRACT)
    conform("export", checkpoint, *(word for quant in QUANTS for word in ("--quant", quant)))
    files = sorted(checkpoint.glob("*.gguf"))
    for file in files:
        conform("verify", file, "--contract", CONTRACT)
    build_go_runtime()
    verdict = OUT / "verdict.json"
    status = conform("parity", *files, "--go-bin", GO_BIN, "--json", verdict, check=False)
    say_what_was_shown(checkpoint, files, verdict, status, time.monotonic() - began)
    return status


def conform(*arguments: object, check: bool = True) -> int:
    """Run one conform command, shown as the user would type it."""
    words = [str(argument) for argument in arguments]
    print(f"\n$ conform {shlex.join(words)}", flush=True)
    status = subprocess.run([BIN / "conform", *words], check=False).returncode
    if check and status:
        sys.exit(status)
    return status


def build_go_runtime() -> None:
    """Compile the Go reference runtime and its companions, as any Go programmer would."""
    go = next((path for path in (BIN / "go",) if path.exists()), "go")
    source = Path("parity/goref").resolve()
    command = [str(go), "build", "-o", str(GO_BIN.parent.resolve()) + os.sep, "./cmd/..."]
    print(f"\n$ cd parity/goref && {shlex.join(['go', *command[1:]])}", flush=True)
    subprocess.run(command, cwd=source, check=True, env=os.environ | {"GOTOOLCHAIN": "local", "GOPROXY": "off"})


def say_what_was_shown(checkpoint: Path, files: list[Path], verdict: Path, status: int, seconds: float) -> None:
    """The closing words: what was trained, what it cost, what the verdict is, where everything lies."""
    held_out = json.loads((checkpoint / "conform.json").read_text())["held_out"]
    ratio = held_out["unigram_perplexity"] / held_out["perplexity"]
    print(f"""
What was shown, in {seconds:.0f} s:
- A {CONTRACT} model was trained on the Python standard library's sources. On text it never saw its perplexity is
  {held_out["perplexity"]:.1f}; a unigram model's is {held_out["unigram_perplexity"]:.1f}, {ratio:.1f} times as much.
- Its checkpoint meets the frozen contract, and {len(files)} GGUF files were written from it and verified.
- A Go program that shares no code with PyTorch {"computes the same" if status == 0 else "does NOT compute the same"}.
Files: {checkpoint} (checkpoint and GGUF files), {GO_BIN} (the Go runtime), {verdict} (every number of the verdict).""")


if __name__ == "__main__":
    sys.exit(main())
