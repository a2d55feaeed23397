"""bitnet-go: drives the command line of the bitnet-go kind, and the companion tools beside the binary, if any.

One process per question. Of the caller's environment nothing reaches it; what it gets is named here.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from conform.core.files.digest import file_sha256
from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Generator, Identity, Limits, Request, RuntimeDriver, RuntimeFault, Step, View
from conform.parity.drivers.answer_line import read_answer
from conform.parity.drivers.faults import raise_fault, require_program
from conform.parity.drivers.process import Finished, run_program
from conform.parity.drivers.trace import read_debug_logits, read_step
from conform.parity.errors import RuntimeDriverError
from conform.plugins.hookspecs import hookimpl

__all__ = ["BitnetGo", "BitnetGoDriver", "conform_runtime_drivers"]

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
# One environment variable may hold 128 KiB on Linux; ids of six digits with commas stay below.
_TOKENS_PER_VARIABLE = 16_000
_COMPANIONS = ("tokenize", "ggufhash")


@dataclass(frozen=True, slots=True)
class BitnetGoDriver:
    """Starts `bitnet --model M --prompt P …`."""

    name: ClassVar[str] = "bitnet-go"

    def companions(self, program: Path) -> Sequence[Path]:
        """See RuntimeDriver."""
        return [path for name in _COMPANIONS if (path := _companion(program, name)) is not None]

    def open(self, program: Path, model: GGUFFile, limits: Limits) -> "BitnetGo":
        """See RuntimeDriver."""
        require_program(program)
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
        # How many values of a layer must be printed for the whole hidden state to be printed as well.
        self._least_values = 1

    @cached_property
    def identity(self) -> Identity:
        """See Runtime."""
        files = [self._program, *BitnetGoDriver().companions(self._program)]
        return Identity("bitnet-go", str(self._program), {path.name: file_sha256(path) for path in files})

    @property
    def generator(self) -> Generator:
        """See Runtime: this kind of runtime documents its generator."""
        return "xorshift64*"

    @property
    def view(self) -> View:
        """See Runtime: ids and tensors are shown by the companions."""
        ids, tensors = (_companion(self._program, name) is not None for name in _COMPANIONS)
        return View(ids=ids, logits=True, hidden=True, layers=True, tensors=tensors)

    def close(self) -> None:
        """See Runtime: each process ends with its answer."""

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._generate(request, {})[0]

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        hidden = self._model.tensors["token_embd.weight"].shape[1]
        answer, watched = self._watch(request, step, values)
        if watched.hidden.size < hidden and not values and self._least_values < hidden:
            self._least_values = hidden
            answer, watched = self._watch(request, step, values)
        return answer, watched

    def _watch(self, request: Request, step: int, values: int) -> tuple[Answer, Step]:
        asked = {"STEP": str(step), "LAYER": "-1" if values else "0", "VALUES_N": str(max(values, self._least_values))}
        answer, stderr = self._generate(request, {f"BITNET_DRIFT_TRACE_{name}": value for name, value in asked.items()})
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
        if sorted(found) != list(range(vocab)):
            return None
        return np.array([found[token] for token in range(vocab)], dtype=np.float32)

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime; an empty text cannot be asked for: the companion takes it for a missing one."""
        if not text or "\0" in text:
            return None
        ids = self._companion_json("tokenize", [f"--prompt={text}"])
        if ids is None:
            return None
        if not isinstance(ids, list) or not all(type(token) is int for token in ids):
            raise RuntimeFault("answered wrongly", "tokenize did not print a JSON array of whole numbers")
        return tuple(ids)

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        report = self._companion_json("ggufhash", [f"--tensor={tensor}", "--count=0"])
        if report is None:
            return None
        if not isinstance(report, dict) or not isinstance(report.get("sha256"), str):
            raise RuntimeFault("answered wrongly", "ggufhash did not print a JSON object with a sha256")
        return str(report["sha256"]).lower()

    def _generate(self, request: Request, observed: Mapping[str, str]) -> tuple[Answer, bytes]:
        if "\0" in request.prompt:
            raise RuntimeDriverError("a prompt with a NUL character cannot be passed on a command line")
        environment = {**_ENVIRONMENT, **observed}
        if request.forced:
            environment["BITNET_FORCE_TOKENS"] = ",".join(map(str, request.forced))
        finished = self._run([self._program, *_flags(self._model, request)], environment)
        return read_answer(finished.stdout, self._model, request.prompt, request.max_tokens), finished.stderr

    def _companion_json(self, name: str, flags: Sequence[str]) -> object:
        program = _companion(self._program, name)
        if program is None:
            return None
        finished = self._run([program, f"--model={self._model.path}", *flags], _ENVIRONMENT)
        try:
            return json.loads(finished.stdout)
        except (ValueError, RecursionError):
            raise RuntimeFault("answered wrongly", f"{name} did not print JSON") from None

    def _run(self, arguments: Sequence[str | Path], environment: Mapping[str, str]) -> Finished:
        finished = run_program(arguments, environment, self._limits)
        raise_fault(finished, self._limits)
        return finished


def _companion(program: Path, name: str) -> Path | None:
    path = program.with_name(name)
    return path if path.is_file() and os.access(path, os.X_OK) else None


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
