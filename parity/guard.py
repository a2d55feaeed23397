"""Guard: calls a driver that a third party may have written; whatever it raises has a name, and a hang is met once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from conform.core.errors import ConformError
from conform.core.gguf.read import GGUFFile
from conform.core.guard import guarded
from conform.core.quantizer import Float32
from conform.core.runtime import (
    Answer,
    Generator,
    Identity,
    Limits,
    Request,
    Runtime,
    RuntimeDriver,
    RuntimeFault,
    Step,
    View,
)

__all__ = ["GuardedRuntime", "companions_of", "open_guarded"]

_Result = TypeVar("_Result")


def open_guarded(driver: RuntimeDriver, owner: str, program: Path, file: GGUFFile, limits: Limits) -> "GuardedRuntime":
    """The runtime that the driver opens.

    Raises PluginError naming the driver and its owner when it fails otherwise than by a ConformError.
    """
    who = f"driver {driver.name} of {owner}"
    with _guarded(who, "open"):
        return GuardedRuntime(driver.open(program, file, limits), who)


def companions_of(driver: RuntimeDriver, owner: str, program: Path) -> list[Path]:
    """The programs beside it that the driver uses as well.

    Raises PluginError naming the driver and its owner when it fails.
    """
    with _guarded(f"driver {driver.name} of {owner}", "companions"):
        return [*driver.companions(program)]


@dataclass(slots=True)
class GuardedRuntime:
    """A runtime behind its driver; see Runtime for each member.

    Raises RuntimeFault as the driver does, and again for every question after one that timed out: who waited once for
    a runtime that hangs need not wait once for each rung. Raises PluginError for anything else that the driver raises.
    """

    runtime: Runtime
    who: str
    _hung: RuntimeFault | None = field(default=None, init=False)

    @property
    def identity(self) -> Identity:
        """See Runtime."""
        return self._ask("identity", lambda: self.runtime.identity)

    @property
    def generator(self) -> Generator:
        """See Runtime."""
        return self._ask("generator", lambda: self.runtime.generator)

    @property
    def view(self) -> View:
        """See Runtime."""
        return self._ask("view", lambda: self.runtime.view)

    def close(self) -> None:
        """See Runtime; also after a question that timed out."""
        with _guarded(self.who, "close"):
            self.runtime.close()

    def answer(self, request: Request) -> Answer:
        """See Runtime."""
        return self._ask("answer", lambda: self.runtime.answer(request))

    def step(self, request: Request, step: int, *, values: int = 0) -> tuple[Answer, Step]:
        """See Runtime."""
        return self._ask("step", lambda: self.runtime.step(request, step, values=values))

    def logits(self, request: Request, position: int) -> Float32 | None:
        """See Runtime."""
        return self._ask("logits", lambda: self.runtime.logits(request, position))

    def tokenize(self, text: str) -> tuple[int, ...] | None:
        """See Runtime."""
        return self._ask("tokenize", lambda: self.runtime.tokenize(text))

    def decoded_sha256(self, tensor: str) -> str | None:
        """See Runtime."""
        return self._ask("decoded_sha256", lambda: self.runtime.decoded_sha256(tensor))

    def _ask(self, what: str, question: Callable[[], _Result]) -> _Result:
        if self._hung is not None:
            raise self._hung
        try:
            with _guarded(self.who, what):
                return question()
        except RuntimeFault as fault:
            if fault.kind == "timed out":
                self._hung = fault
            raise


def _guarded(who: str, what: str) -> AbstractContextManager[None]:
    return guarded(f"{who} failed in {what}", RuntimeFault, ConformError)
