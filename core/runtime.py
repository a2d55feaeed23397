"""Runtime: the protocol of everything that runs a GGUF file and can be asked what it computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from conform.core.quantizer import Float32

__all__ = ["Generation", "Outcome", "Runtime", "RuntimeDriver", "Trace", "TraceStep"]

Outcome: TypeAlias = Literal["ok", "refused", "crashed", "timed out", "answered wrongly"]
"""How a run ended: a refusal is an error that the runtime reported; a wrong answer one that breaks its protocol."""


@dataclass(frozen=True, slots=True)
class TraceStep:
    """What a runtime computed at one position; None is what it did not tell.

    `token` is the input at `position`; `hidden` (hidden,) is the final hidden state after the output norm;
    `logits` (vocab,).
    """

    position: int
    token: int
    layers: int | None = None
    hidden: Float32 | None = None
    logits: Float32 | None = None
    argmax_token: int | None = None
    argmax_logit: float | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """The steps from the prompt's last position on, teacher-forced; empty unless the outcome is ok."""

    outcome: Outcome
    steps: tuple[TraceStep, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """One free run: `text` as the runtime printed it, prompt included; `tokens` where they can be had."""

    outcome: Outcome
    text: bytes = b""
    tokens: tuple[int, ...] | None = None
    fields: Mapping[str, str] = field(default_factory=dict)
    detail: str = ""


class Runtime(Protocol):
    """One program with one GGUF file."""

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """The token ids of a prompt as the runtime sees them, BOS included; None where they cannot be had."""
        ...

    def trace(self, prompt: str, forced: tuple[int, ...]) -> Trace:
        """What the runtime computes after the prompt when the tokens that follow are forced."""
        ...

    def generate(
        self, prompt: str, max_tokens: int, temperature: float, top_k: int, top_p: float, seed: int
    ) -> Generation:
        """A free run; temperature 0 is greedy, top_k 0 and top_p 1 are off."""
        ...


@runtime_checkable
class RuntimeDriver(Protocol):
    """Knows how to talk to one kind of program."""

    name: ClassVar[str]

    def accepts(self, program: Path) -> bool:
        """True when the program is of that kind; may start it, harmlessly."""
        ...

    def open(self, program: Path, gguf: Path) -> Runtime:
        """The program, ready to run that file.

        Raises ConformError when it cannot be driven at all.
        """
        ...
