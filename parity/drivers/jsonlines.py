"""jsonlines: drives any program that can be taught one question and one answer, each a line of JSON.

`PROGRAM MODEL.gguf` reads one line from stdin and prints one line; docs/reference/parity.md describes both.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from conform.core.checkpoint.sidecar import file_sha256
from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Generator, Identity, Limits, Request, RuntimeDriver, RuntimeFault, Step
from conform.parity.drivers.faults import raise_fault, require_program
from conform.parity.drivers.process import run_program
from conform.plugins.hookspecs import hookimpl

__all__ = ["JsonLines", "JsonLinesDriver", "conform_runtime_drivers"]

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class JsonLinesDriver:
    """Starts `PROGRAM MODEL.gguf` with one question on stdin."""

    name: ClassVar[str] = "jsonlines"

    def open(self, program: Path, model: GGUFFile, limits: Limits) -> "JsonLines":
        """See RuntimeDriver."""
        require_program(program)
        return JsonLines(program.resolve(), model, limits)


@hookimpl
def conform_runtime_drivers() -> Iterable[RuntimeDriver]:
    """The driver of this module."""
    return [JsonLinesDriver()]


class JsonLines:
    """One program with one GGUF file."""

    def __init__(self, program: Path, model: GGUFFile, limits: Limits) -> None:
        self._program = program
        self._model = model
        self._limits = limits

    @cached_property
    def identity(self) -> Identity:
        """See Runtime."""
        return Identity("jsonlines", str(self._program), {self._program.name: file_sha256(self._program)})

    @cached_property
    def generator(self) -> Generator:
        """See Runtime."""
        told = self._ask("describe", {})
        return "xorshift64*" if told is not None and told.get("generator") == "xorshift64*" else "unknown"

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._answer(self._told("answer", _asked(request)), request)

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        told = self._told("step", {**_asked(request), "step": step, "values": values})
        vectors = _field(told, "values", dict) if values and "values" in told else {}
        watched = Step(
            position=_field(told, "position", int),
            token=_field(told, "token", int),
            layers=_field(told, "layers", int),
            hidden=_floats(told, "hidden"),
            argmax=_field(told, "argmax", int),
            argmax_logit=float(_floats(told, "argmax_logit")[0]),
            values={_place(name): _floats(vectors, name) for name in vectors},
        )
        return self._answer(told, request), watched

    def logits(self, request: Request, position: int) -> Float32 | None:
        """See Runtime."""
        told = self._ask("logits", {**_asked(request), "position": position})
        return None if told is None else _floats(told, "logits")

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime."""
        told = self._ask("tokenize", {"text": text})
        if told is None:
            return None
        ids = _field(told, "ids", list)
        if not all(type(token) is int for token in ids):
            raise RuntimeFault("answered wrongly", "ids are not whole numbers")
        return tuple(ids)

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        told = self._ask("sha256", {"tensor": tensor})
        return None if told is None else str(_field(told, "sha256", str)).lower()

    def _answer(self, told: Mapping[str, Any], request: Request) -> Answer:
        answer = Answer(_bytes(told, "text"), _field(told, "tokens", int))
        if answer.tokens != request.max_tokens:
            raise RuntimeFault("answered wrongly", f"{answer.tokens} tokens; expected {request.max_tokens}")
        if not answer.text.startswith(request.prompt.encode()):
            raise RuntimeFault("answered wrongly", "the text does not begin with the prompt")
        return answer

    def _told(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        told = self._ask(operation, arguments)
        if told is None:
            raise RuntimeFault("refused", f"it does not support {operation!r}, which every runtime must")
        return told

    def _ask(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any] | None:
        """The answer; None when the program says that it cannot tell."""
        question = json.dumps({"op": operation, **arguments}) + "\n"
        finished = run_program([self._program, self._model.path], _ENVIRONMENT, self._limits, question.encode())
        raise_fault(finished, self._limits)
        try:
            told = json.loads(finished.stdout)
        except (ValueError, RecursionError):
            raise RuntimeFault("answered wrongly", "stdout is not one line of JSON") from None
        if not isinstance(told, dict):
            raise RuntimeFault("answered wrongly", "stdout is no JSON object")
        if "error" in told:
            raise RuntimeFault("refused", str(told["error"])[:300])
        return None if told.get("unsupported") is True else told


def _asked(request: Request) -> dict[str, object]:
    sampling = request.sampling
    return {
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "forced": list(request.forced),
        "seed": sampling.seed,
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
    }


def _field(told: Mapping[str, Any], name: str, kind: type) -> Any:
    value = told.get(name)
    if type(value) is not kind:
        raise RuntimeFault("answered wrongly", f"{name} is {value!r:.60}; expected {kind.__name__}")
    return value


def _bytes(told: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_field(told, name, str), validate=True)
    except binascii.Error:
        raise RuntimeFault("answered wrongly", f"{name} is not base64") from None


def _floats(told: Mapping[str, Any], name: str) -> Float32:
    content = _bytes(told, name)
    if not content or len(content) % 4:
        raise RuntimeFault("answered wrongly", f"{name} has {len(content)} bytes; float32 values have four each")
    return np.frombuffer(content, dtype="<f4").astype(np.float32)


def _place(name: str) -> tuple[int, str]:
    layer, _, vector = name.partition(".")
    if not layer.isdecimal() or len(layer) > 6:
        raise RuntimeFault("answered wrongly", f"{name!r:.60} names no vector of a layer")
    return int(layer), vector
