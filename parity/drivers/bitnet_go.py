"""bitnet-go: drives the command line of the bitnet-go kind, and the companion tools beside the binary, where there are.

One process per question. Nothing that the caller's environment holds reaches it but what is named here.
"""

import json
import os
import re
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from conform.core.gguf_read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Generator, Identity, Limits, Request, RuntimeDriver, RuntimeFault, Step
from conform.core.sidecar import file_sha256
from conform.parity.answer_line import read_answer
from conform.parity.errors import RuntimeDriverError
from conform.parity.process import Finished, run_program
from conform.parity.trace import read_debug_logits, read_step
from conform.plugins.hookspecs import hookimpl

__all__ = ["BitnetGo", "BitnetGoDriver", "conform_runtime_drivers"]

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
# Go exits with 2 for a usage error as well as for a panic; only stderr tells them apart.
_GO_CRASH = re.compile(
    rb"^(panic:|fatal error:|runtime: out of memory|unexpected fault address|SIG[A-Z]+:)", re.MULTILINE
)
# One environment variable may hold 128 KiB on Linux; ids of six digits with commas stay below.
_TOKENS_PER_VARIABLE = 16_000
_COMPANIONS = ("tokenize", "ggufhash")


@dataclass(frozen=True, slots=True)
class BitnetGoDriver:
    """Starts `bitnet --model M --prompt P …`."""

    name: ClassVar[str] = "bitnet-go"

    def open(self, program: Path, model: GGUFFile, limits: Limits) -> "BitnetGo":
        """See RuntimeDriver."""
        if not program.is_file():
            raise RuntimeDriverError(f"{program}: no such file; give the path of the runtime's binary")
        if not os.access(program, os.X_OK):
            raise RuntimeDriverError(f"{program}: not executable; chmod +x it, or give the path of the binary")
        return BitnetGo(program.resolve(), model, limits)


@hookimpl
def conform_runtime_drivers() -> Iterable[RuntimeDriver]:
    """The driver of this module."""
    return [BitnetGoDriver()]


class BitnetGo:
    """One binary with one GGUF file."""

    def __init__(self, program: Path, model: GGUFFile, limits: Limits) -> None:
        self._program = program
        self._model = model
        self._limits = limits

    @cached_property
    def identity(self) -> Identity:
        """See Runtime."""
        files = [self._program, *filter(None, map(self._companion, _COMPANIONS))]
        return Identity("bitnet-go", str(self._program), {path.name: file_sha256(path) for path in files})

    @property
    def generator(self) -> Generator:
        """See Runtime: this kind of runtime documents its generator."""
        return "xorshift64*"

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._generate(request, {})[0]

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        # The hidden state is printed only along with at least one value of some layer.
        watched = {"STEP": str(step), "LAYER": "-1" if values else "0", "VALUES_N": str(max(values, 1))}
        answer, stderr = self._generate(
            request, {f"BITNET_DRIFT_TRACE_{name}": value for name, value in watched.items()}
        )
        return answer, read_step(stderr, step)

    def logits(self, request: Request, position: int) -> Float32 | None:
        """See Runtime; the runtime recomputes them with sequential float32 sums."""
        vocab = self._model.tensors["token_embd.weight"].shape[0]
        found: dict[int, float] = {}
        for start in range(0, vocab, _TOKENS_PER_VARIABLE):
            ids = range(start, min(start + _TOKENS_PER_VARIABLE, vocab))
            asked = {
                "BITNET_DEBUG_STEP0": "1",
                "BITNET_DEBUG_STAGES": "1",
                "BITNET_DEBUG_POS": str(position),
                "BITNET_DEBUG_TOKENS": ",".join(map(str, ids)),
            }
            found |= read_debug_logits(self._generate(request, asked)[1])
        if not found:
            return None
        if sorted(found) != list(range(vocab)):
            raise RuntimeFault("answered wrongly", f"asked for {vocab} debug logits, it printed {len(found)}")
        return np.array([found[token] for token in range(vocab)], dtype=np.float32)

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime; an empty text cannot be asked for, because the companion takes it for none at all."""
        if not text or "\0" in text:
            return None
        ids = self._companion_json("tokenize", [f"--prompt={text}"])
        if ids is None:
            return None
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise RuntimeFault("answered wrongly", "tokenize printed no JSON array of whole numbers")
        return tuple(ids)

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        report = self._companion_json("ggufhash", [f"--tensor={tensor}", "--count=0"])
        if report is None:
            return None
        if not isinstance(report, dict) or not isinstance(report.get("sha256"), str):
            raise RuntimeFault("answered wrongly", "ggufhash printed no JSON object with a sha256")
        return str(report["sha256"]).lower()

    def _generate(self, request: Request, observed: Mapping[str, str]) -> tuple[Answer, bytes]:
        if "\0" in request.prompt:
            raise RuntimeDriverError("a prompt with a NUL character cannot be passed on a command line")
        environment = {**_ENVIRONMENT, **observed}
        if request.forced:
            environment["BITNET_FORCE_TOKENS"] = ",".join(map(str, request.forced))
        finished = self._run([self._program, *_flags(self._model, request)], environment)
        return read_answer(finished.stdout, self._model, request.prompt, request.max_tokens), finished.stderr

    def _companion(self, name: str) -> Path | None:
        path = self._program.with_name(name)
        return path if path.is_file() and os.access(path, os.X_OK) else None

    def _companion_json(self, name: str, flags: Sequence[str]) -> object:
        program = self._companion(name)
        if program is None:
            return None
        finished = self._run([program, f"--model={self._model.path}", *flags], _ENVIRONMENT)
        try:
            return json.loads(finished.stdout)
        except (ValueError, RecursionError):
            raise RuntimeFault("answered wrongly", f"{name} printed no JSON") from None

    def _run(self, arguments: Sequence[str | Path], environment: Mapping[str, str]) -> Finished:
        finished = run_program(arguments, environment, self._limits)
        fault = _fault(finished, self._limits)
        if fault is not None:
            raise fault
        return finished


def _flags(model: GGUFFile, request: Request) -> Iterator[str]:
    # --flag=value: a prompt that begins with a dash is then still a prompt.
    yield f"--model={model.path}"
    yield f"--prompt={request.prompt}"
    yield f"--max-tokens={request.max_tokens}"
    yield f"--seed={request.sampling.seed}"
    yield f"--temp={request.sampling.temperature!r}"
    yield f"--top-k={request.sampling.top_k}"
    yield f"--top-p={request.sampling.top_p!r}"
    # Several processes run side by side; each takes one core.
    yield "--procs=1"


def _fault(finished: Finished, limits: Limits) -> RuntimeFault | None:
    said = _said(finished.stderr)
    if finished.ending == "timed out":
        return RuntimeFault("timed out", f"no answer within {limits.seconds:g} s (--timeout)")
    if finished.ending == "too much output":
        return RuntimeFault("answered wrongly", f"output too large: stopped at {limits.output} bytes")
    if finished.ending == "too much memory":
        return RuntimeFault("crashed", f"killed at {limits.memory / 2**30:.3g} GiB of memory (--memory-limit)")
    if finished.ending == "signalled":
        return RuntimeFault("crashed", f"ended by {_signal_name(finished.code)}{said}")
    if finished.code == 0:
        return None
    if _GO_CRASH.search(finished.stderr):
        return RuntimeFault("crashed", f"exit status {finished.code}{said}")
    kind = "refused" if finished.code in {1, 2} else "answered wrongly"
    return RuntimeFault(kind, f"exit status {finished.code}{said}")  # type: ignore[arg-type]  # literals widen to str


def _said(stderr: bytes) -> str:
    """The first line of stderr that says something, without its time stamp."""
    for line in stderr.decode(errors="replace").splitlines():
        text = re.sub(r"^\d{4}/\d\d/\d\d \d\d:\d\d:\d\d ", "", line).strip()
        if text and not text.startswith("drift_trace"):
            return ": " + "".join(c if c.isprintable() else "?" for c in text[:300])
    return ", nothing on stderr"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
