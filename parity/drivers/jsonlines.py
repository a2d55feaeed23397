"""jsonlines: drives any program that can be taught to answer a line of JSON with another; see docs/protocol.md.

`PROGRAM MODEL.gguf` is first asked to `describe` itself. One that says it keeps a session is then asked everything in
one process; any other is started again for each question.
"""

import base64
import binascii
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from conform.core.files.digest import file_sha256
from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Answer, Generator, Identity, Limits, Request, RuntimeDriver, RuntimeFault, Step, View
from conform.parity.drivers.conversation import Conversation, OneShot, SessionConversation
from conform.parity.drivers.faults import require_program
from conform.plugins.hookspecs import hookimpl

__all__ = ["JsonLines", "JsonLinesDriver", "conform_runtime_drivers"]

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}


@dataclass(frozen=True, slots=True)
class JsonLinesDriver:
    """Starts `PROGRAM MODEL.gguf` with questions on stdin."""

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
        self._turn = threading.Lock()
        self._introduction: _Introduction | None = None

    @cached_property
    def identity(self) -> Identity:
        """See Runtime."""
        return Identity("jsonlines", str(self._program), {self._program.name: file_sha256(self._program)})

    @property
    def generator(self) -> Generator:
        """See Runtime."""
        return "xorshift64*" if self._introduced.description.get("generator") == "xorshift64*" else "unknown"

    @property
    def view(self) -> View:
        """See Runtime; a program that does not say what it answers may be asked for everything."""
        said = self._introduced.description
        if "observes" not in said:
            return View(ids=True, logits=True, hidden=True, layers=True, tensors=True)
        return _view(_field(said, "observes", list), _described(said, "logprobs", int, 0))

    def close(self) -> None:
        """See Runtime."""
        with self._turn:
            if self._introduction is not None:
                self._introduction.conversation.close()

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._answer(self._required("answer", _question(request)), request)

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        reply = self._required("step", {**_question(request), "step": step, "values": values})
        vectors = _field(reply, "values", dict) if values and "values" in reply else {}
        logits = _floats(reply, "logits") if "logits" in reply and "hidden" not in reply else None
        watched = Step(
            position=_field(reply, "position", int),
            token=_field(reply, "token", int),
            layers=_field(reply, "layers", int),
            hidden=_floats(reply, "hidden") if logits is None else np.empty(0, dtype=np.float32),
            argmax=_field(reply, "argmax", int),
            argmax_logit=float(_floats(reply, "argmax_logit")[0]),
            values={_place(name): _floats(vectors, name) for name in vectors},
            logits=logits,
        )
        return self._answer(reply, request), watched

    def logits(self, request: Request, position: int) -> Float32 | None:
        """See Runtime."""
        reply = self._ask("logits", {**_question(request), "position": position}) if self._shows("logits") else None
        return None if reply is None else _floats(reply, "logits")

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime."""
        reply = self._ask("tokenize", {"text": text}) if self._shows("ids") else None
        if reply is None:
            return None
        ids = _field(reply, "ids", list)
        if not all(type(token) is int for token in ids):
            raise RuntimeFault("answered wrongly", "ids are not whole numbers")
        return tuple(ids)

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        reply = self._ask("sha256", {"tensor": tensor}) if self._shows("tensors") else None
        return None if reply is None else str(_field(reply, "sha256", str)).lower()

    def _shows(self, what: str) -> bool:
        """False when the program has said that it does not."""
        observes = self._introduced.said.get("observes")
        return not isinstance(observes, list) or what in observes

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
        reply = self._introduced.conversation.ask({"op": operation, **arguments})
        return _answered(reply)

    @property
    def _introduced(self) -> "_Introduction":
        """What the program says of itself, asked once, whoever asks first."""
        with self._turn:
            if self._introduction is None:
                self._introduction = self._introduce()
            return self._introduction

    def _introduce(self) -> "_Introduction":
        arguments = [self._program, self._model.path]
        once = OneShot(arguments, _ENVIRONMENT, self._limits)
        try:
            said = _answered(once.ask({"op": "describe"})) or {}
            session = _described(said, "session", int, 0) == 1
        except RuntimeFault as fault:
            if fault.kind == "timed out":
                raise
            # A program may know the other questions all the same; whoever asks for what it says of itself is told why.
            return _Introduction(once, {}, fault)
        if session:
            return _Introduction(SessionConversation(arguments, _ENVIRONMENT, self._limits), said)
        return _Introduction(once, said)


@dataclass(frozen=True, slots=True)
class _Introduction:
    """How the program is to be asked, and what it says of itself, or why it does not."""

    conversation: Conversation
    said: Mapping[str, Any]
    fault: RuntimeFault | None = None

    @property
    def description(self) -> Mapping[str, Any]:
        """What it says of itself."""
        if self.fault is not None:
            raise self.fault
        return self.said


def _answered(reply: Mapping[str, Any]) -> Mapping[str, Any] | None:
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


def _view(observes: Sequence[object], logprobs: int) -> View:
    known = {"ids", "logits", "hidden", "layers", "tensors"}
    if unknown := [word for word in observes if word not in known]:
        raise RuntimeFault("answered wrongly", f"observes {unknown[0]!r:.40}; known are {', '.join(sorted(known))}")
    if logprobs < 0:
        raise RuntimeFault("answered wrongly", f"logprobs is {logprobs}; expected 0 or more")
    return View(logprobs=logprobs, **{str(word): True for word in observes})


def _described(said: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    return _field(said, name, kind) if name in said else default


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
