"""Runtime: the protocol of everything that runs a GGUF file and can be watched while it does."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

from conform.core.gguf.read import GGUFFile
from conform.core.quantizer import Float32

__all__ = [
    "GREEDY",
    "Answer",
    "FaultKind",
    "Generator",
    "Identity",
    "Limits",
    "Request",
    "Runtime",
    "RuntimeDriver",
    "RuntimeFault",
    "Sampling",
    "Step",
    "View",
]

FaultKind: TypeAlias = Literal["refused", "crashed", "timed out", "answered wrongly"]
"""How a runtime can fail to answer. Refusing is not crashing, and neither is a wrong answer."""

Generator: TypeAlias = Literal["xorshift64*", "unknown"]
"""The random number generator that a runtime samples with, where it is known."""


class RuntimeFault(Exception):  # noqa: N818 - a fault of the judged runtime is a finding, not an error of conform
    """The runtime did not answer as asked; the rung that asked has failed, and says so with this kind and reason."""

    def __init__(self, kind: FaultKind, reason: str) -> None:
        super().__init__(f"{kind}: {reason}")
        self.kind: FaultKind = kind
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What one call of the runtime may use: seconds of wall time, bytes of memory, bytes of output.

    `folder` is where it works, and where its HOME and TMPDIR are; None leaves it where conform runs.
    """

    seconds: float = 120.0
    memory: int = 8 << 30
    output: int = 64 << 20
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Temperature 0 or less is greedy; top_k 0 and top_p 1 are off."""

    seed: int = 1
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0


GREEDY = Sampling()


@dataclass(frozen=True, slots=True)
class Request:
    """One generation. Token i of `forced` replaces the one that decode step i would have chosen."""

    prompt: str
    max_tokens: int
    sampling: Sampling = GREEDY
    forced: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """What a generation produced: the text with the prompt in front, and the number of new tokens."""

    text: bytes
    tokens: int


@dataclass(frozen=True, slots=True)
class Step:
    """One decode step, as the runtime itself reports it: the proof that a model was run, and what it computed.

    `position` and `token` are those of the input of this step, `layers` the number of layers that it went through.
    `hidden` (hidden,) is the final hidden state after the output norm; `argmax` the id of the largest logit.
    A runtime that does not show it leaves it empty, and shows its `logits` (vocab,) instead.
    `values` holds intermediate vectors by (layer, name), only when they were asked for.
    """

    position: int
    token: int
    layers: int
    hidden: Float32
    argmax: int
    argmax_logit: float
    values: Mapping[tuple[int, str], Float32] = field(default_factory=dict)
    logits: Float32 | None = None


@dataclass(frozen=True, slots=True)
class Identity:
    """What was judged: the driver's name, the program, the sha256 of every file that took part."""

    driver: str
    program: str
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class View:
    """What of a runtime can be observed beside the text that it prints; what is not in view is never asked for.

    `ids`: the tokens of a text. `logprobs`: how many of the best tokens come with their log-probabilities. `logits`:
    those of the whole vocabulary; in single steps they stand in for a final hidden state that is not in view. `hidden`:
    single steps with that state. `layers`: the intermediate vectors of each layer. `tensors`: what the runtime makes of
    a stored tensor. A runtime may still be unable to tell.
    """

    ids: bool = False
    logprobs: int = 0
    logits: bool = False
    hidden: bool = False
    layers: bool = False
    tensors: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is in view, in words, from the text inwards."""
        found = {
            "ids": self.ids,
            f"best {self.logprobs} logprobs": self.logprobs > 0,
            "logits": self.logits,
            "hidden state": self.hidden,
            "layers": self.layers,
            "tensors": self.tensors,
        }
        return ("text", *(name for name, seen in found.items() if seen))


class Runtime(Protocol):
    """A runtime with one model. No call depends on those before, and calls may be made side by side.

    Each method raises RuntimeFault when the runtime does not answer as it must.
    """

    @property
    def identity(self) -> Identity:
        """What is judged."""
        ...

    @property
    def generator(self) -> Generator:
        """The generator that seeded sampling uses."""
        ...

    @property
    def view(self) -> View:
        """What can be observed of it."""
        ...

    def close(self) -> None:
        """End whatever still runs for it; a later question may start it again."""
        ...

    def answer(self, request: Request) -> Answer:
        """The finished generation."""
        ...

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """The generation up to and including decode step `step`, and that step, watched.

        `values` > 0 asks for that many leading elements of every intermediate vector.
        """
        ...

    def logits(self, request: Request, position: int) -> Float32 | None:
        """The logits of the whole vocabulary at that absolute position; None where the runtime cannot tell."""
        ...

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """The ids of the prompt, with BOS where the runtime adds it; None where the runtime cannot tell."""
        ...

    def decoded_sha256(self, tensor: str) -> str | None:
        """sha256 of the tensor's float32 values, little endian, as this runtime decodes them; None if it cannot."""
        ...


@runtime_checkable
class RuntimeDriver(Protocol):
    """Starts one kind of runtime."""

    name: ClassVar[str]
    """What is typed after --driver."""

    def companions(self, program: Path) -> Sequence[Path]:
        """The programs beside it that take part as well, where there are any."""
        ...

    def open(self, program: Path, model: GGUFFile, limits: Limits) -> Runtime:
        """The runtime with that model.

        Raises RuntimeDriverError when the program cannot be started at all.
        """
        ...
