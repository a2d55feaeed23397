"""jsonlines: drives any program that can be taught one question and one answer, each a line of JSON.

`PROGRAM MODEL.gguf` reads one line from stdin and prints one line; docs/reference/parity.md describes both.
"""

import base64
import binascii
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from conform.core.files.digest import file_sha256
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

    def companions(self, program: Path) -> Sequence[Path]:
        """See RuntimeDriver: there are none."""
        return ()

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
        reply = self._ask("describe", {})
        return "xorshift64*" if reply is not None and reply.get("generator") == "xorshift64*" else "unknown"

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._answer(self._required("answer", _question(request)), request)

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        reply = self._required("step", {**_question(request), "step": step, "values": values})
        vectors = _field(reply, "values", dict) if values and "values" in reply else {}
        watched = Step(
            position=_field(reply, "position", int),
            token=_field(reply, "token", int),
            layers=_field(reply, "layers", int),
            hidden=_floats(reply, "hidden"),
            argmax=_field(reply, "argmax", int),
            argmax_logit=float(_floats(reply, "argmax_logit")[0]),
            values={_place(name): _floats(vectors, name) for name in vectors},
        )
        return self._answer(reply, request), watched

    def logits(self, request: Request, position: int) -> Float32 | None:
        """See Runtime."""
        reply = self._ask("logits", {**_question(request), "position": position})
        return None if reply is None else _floats(reply, "logits")

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime."""
        reply = self._ask("tokenize", {"text": text})
        if reply is None:
            return None
        ids = _field(reply, "ids", list)
        if not all(type(token) is int for token in ids):
            raise RuntimeFault("answered wrongly", "ids are not whole numbers")
        return tuple(ids)

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        reply = self._ask("sha256", {"tensor": tensor})
        return None if reply is None else str(_field(reply, "sha256", str)).lower()

    def _answer(self, reply: Mapping[str, Any], request: Request) -> Answer:
        answer = Answer(_bytes(reply, "text"), _field(reply, "tokens", int))
        if answer.tokens != request.max_tokens:
            raise RuntimeFault("answered wrongly", f"{answer.tokens} tokens; expected {request.max_tokens}")
        if not answer.text.startswith(request.prompt.encode()):
            raise RuntimeFault("answered wrongly", "the text does not begin with the prompt")
        return answer

    def _required(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any]:
        reply = self._ask(operation, arguments)
        if reply is None:
            raise RuntimeFault("refused", f"it does not support {operation!r}, which every runtime must")
        return reply

    def _ask(self, operation: str, arguments: Mapping[str, object]) -> Mapping[str, Any] | None:
        """The answer; None when the program says that it cannot tell."""
        question = json.dumps({"op": operation, **arguments}) + "\n"
        finished = run_program([self._program, self._model.path], _ENVIRONMENT, self._limits, question.encode())
        raise_fault(finished, self._limits)
        try:
            reply = json.loads(finished.stdout)
        except (ValueError, RecursionError):
            raise RuntimeFault("answered wrongly", "stdout is not one line of JSON") from None
        if not isinstance(reply, dict):
            raise RuntimeFault("answered wrongly", "stdout is not a JSON object")
        if "error" in reply:
            raise RuntimeFault("refused", str(reply["error"])[:300])
        return None if reply.get("unsupported") is True else reply


def _question(request: Request) -> dict[str, object]:
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


def _field(reply: Mapping[str, Any], name: str, kind: type) -> Any:
    value = reply.get(name)
    if type(value) is not kind:
        raise RuntimeFault("answered wrongly", f"{name} is {value!r:.60}; expected {kind.__name__}")
    return value


def _bytes(reply: Mapping[str, Any], name: str) -> bytes:
    try:
        return base64.b64decode(_field(reply, name, str), validate=True)
    except binascii.Error:
        raise RuntimeFault("answered wrongly", f"{name} is not base64") from None


def _floats(reply: Mapping[str, Any], name: str) -> Float32:
    content = _bytes(reply, name)
    if not content or len(content) % 4:
        raise RuntimeFault("answered wrongly", f"{name} has {len(content)} bytes; float32 values have four each")
    return np.frombuffer(content, dtype="<f4").astype(np.float32)


def _place(name: str) -> tuple[int, str]:
    layer, _, vector = name.partition(".")
    if not layer.isdecimal() or len(layer) > 6:
        raise RuntimeFault("answered wrongly", f"{name!r:.60} does not name a vector of a layer")
    return int(layer), vector
