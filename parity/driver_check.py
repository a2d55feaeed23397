"""Driver check: each kind of question asked once, to see what a driver gets out of its runtime."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

import numpy as np

from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32
from conform.core.runtime import Request, Runtime, RuntimeFault, Sampling, Step
from conform.parity.errors import RuntimeDriverError
from conform.parity.launcher import Launcher

__all__ = ["CheckStatus", "CheckedQuestion", "check_driver", "driver_works", "require_runtime"]

CheckStatus: TypeAlias = Literal["answered", "cannot tell", "wrong"]

_PLAIN = Request("a", 2)
_EMBEDDING = "token_embd.weight"
_REQUIRED = ("answer", "step")
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class CheckedQuestion:
    """One kind of question: what came of it, what was said, in words, and how long that took."""

    name: str
    status: CheckStatus
    said: str
    seconds: float

    def to_json(self) -> dict[str, str | float]:
        """The same for a report."""
        return {"question": self.name, "status": self.status, "said": self.said, "seconds": self.seconds}


def check_driver(runtime: Runtime, file: GGUFFile) -> Iterator[CheckedQuestion]:
    """Every kind of question in turn, each as soon as it was asked."""
    for name, question in _QUESTIONS.items():
        started = time.monotonic()
        status: CheckStatus = "answered"
        try:
            said = question(runtime, file)
        except RuntimeFault as fault:
            status, said = "wrong", str(fault)
        if said is None:
            status, said = "cannot tell", ""
        yield CheckedQuestion(name, status, said, time.monotonic() - started)


def driver_works(checked: list[CheckedQuestion]) -> bool:
    """True when nothing was wrong, and what every runtime must answer was answered."""
    answered = {question.name for question in checked if question.status == "answered"}
    return answered >= set(_REQUIRED) and all(question.status != "wrong" for question in checked)


def require_runtime(runtime: Runtime, launcher: Launcher) -> None:
    """Pass unless the plainest question shows that the program is not a runtime of this driver.

    What a runtime refuses, or where it crashes, is for the verdict to say. Raises RuntimeDriverError.
    """
    try:
        runtime.answer(_PLAIN)
    except RuntimeFault as fault:
        if fault.kind == "answered wrongly":
            raise RuntimeDriverError(
                f"{launcher.program}: not a runtime that the driver {launcher.driver.name} can talk to: "
                f"{fault.reason}; `conform parity --check-driver` asks it each kind of question"
            ) from fault


def _description(runtime: Runtime, _file: GGUFFile) -> str:
    return f"observes {', '.join(runtime.view.names)}; its generator is {runtime.generator}"


def _answer(runtime: Runtime, _file: GGUFFile) -> str:
    first, second = runtime.answer(_PLAIN), runtime.answer(_PLAIN)
    if first != second:
        raise _wrong(f"asked twice, it printed {_text(first.text)} and {_text(second.text)}")
    return f"{first.tokens} tokens, twice the same: {_text(first.text)}"


def _sampled(runtime: Runtime, _file: GGUFFile) -> str:
    answer = runtime.answer(replace(_PLAIN, sampling=Sampling(seed=1, temperature=1.0, top_k=5, top_p=0.9)))
    return f"{answer.tokens} tokens: {_text(answer.text)}"


def _step(runtime: Runtime, file: GGUFFile) -> str:
    step = _checked_step(runtime, file, _PLAIN, 0)
    return f"position {step.position}, token {step.token}, {step.layers} layers, best token {step.argmax}"


def _forced(runtime: Runtime, file: GGUFFile) -> str:
    token = _shape(file)[0] - 1
    found = _checked_step(runtime, file, replace(_PLAIN, forced=(token,)), 1).token
    if found != token:
        raise _wrong(f"token {token} was forced; the next step ran token {found}")
    return f"token {token} was run as told"


def _layers(runtime: Runtime, _file: GGUFFile) -> str | None:
    if not runtime.view.layers:
        return None
    values = runtime.step(_PLAIN, 0, values=1)[1].values
    if not values:
        return None
    layers = {layer for layer, _ in values}
    return f"{len(values)} vectors of {len(layers)} layers"


def _logits(runtime: Runtime, file: GGUFFile) -> str | None:
    step = _checked_step(runtime, file, _PLAIN, 0)
    logits = runtime.logits(_PLAIN, step.position) if runtime.view.logits else None
    if logits is None:
        return None
    _require_vector("logits", logits, _shape(file)[0])
    # Two tokens may be equally good, and some runtimes sum the two in another order.
    behind = float(logits.max() - logits[step.argmax])
    if behind > 1e-3:
        raise _wrong(f"the logit of its best token {step.argmax} lies {behind:.3g} behind that of {logits.argmax()}")
    return f"{logits.size} logits, the best that of token {logits.argmax()}"


def _ids(runtime: Runtime, _file: GGUFFile) -> str | None:
    ids = runtime.tokenize(_PLAIN.prompt) if runtime.view.ids else None
    if ids is None:
        return None
    step = runtime.step(_PLAIN, 0)[1]
    if len(ids) != step.position + 1 or ids[-1] != step.token:
        raise _wrong(f"the ids are {list(ids[:5])}, but token {step.token} was run at position {step.position}")
    return f"{_PLAIN.prompt!r} is {list(ids)}"


def _tensors(runtime: Runtime, _file: GGUFFile) -> str | None:
    found = runtime.decoded_sha256(_EMBEDDING) if runtime.view.tensors else None
    if found is not None and not re.fullmatch("[0-9a-f]{64}", found):
        raise _wrong(f"{found!r:.40} is not a sha256 in hexadecimal")
    return found and f"{_EMBEDDING} has sha256 {found[:16]}…"


_QUESTIONS: Mapping[str, Callable[[Runtime, GGUFFile], str | None]] = {
    "description": _description,
    "answer": _answer,
    "sampled answer": _sampled,
    "step": _step,
    "forced token": _forced,
    "layers": _layers,
    "logits": _logits,
    "ids": _ids,
    "tensors": _tensors,
}


def _checked_step(runtime: Runtime, file: GGUFFile, request: Request, number: int) -> Step:
    step = runtime.step(request, number)[1]
    vocab, hidden = _shape(file)
    for what, token in (("token", step.token), ("best token", step.argmax)):
        if not 0 <= token < vocab:
            raise _wrong(f"{what} {token}; the vocabulary has {vocab}")
    if step.logits is None:
        _require_vector("hidden state", step.hidden, hidden)
    else:
        _require_vector("logits of the step", step.logits, vocab)
    return step


def _require_vector(what: str, found: Float32, size: int) -> None:
    if found.shape != (size,):
        raise _wrong(f"the {what}: expected {size} values, found {found.size}")
    if not np.isfinite(found).all():
        raise _wrong(f"the {what}: not all values are finite")


def _shape(file: GGUFFile) -> tuple[int, ...]:
    """(vocab, hidden), as the embedding has it."""
    if _EMBEDDING not in file.tensors:
        raise RuntimeDriverError(f"{file.path}: no tensor {_EMBEDDING}; check the driver with a file of a whole model")
    return file.tensors[_EMBEDDING].shape


def _text(text: bytes) -> str:
    return repr(text[:_SHOWN])[1:] + ("…" if len(text) > _SHOWN else "")


def _wrong(reason: str) -> RuntimeFault:
    return RuntimeFault("answered wrongly", reason)
