"""Campaign: what tries one kind of thing many times, and what it reports."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Budget", "Campaign", "Row"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a campaign may try: so many seconds, or with `sample` so many tries of each kind.

    Equal seeds, equal tries. `only` names the kind that is asked for, "" all of them.
    """

    seconds: float
    sample: int | None
    seed: int
    only: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; each failure says in one line what was tried and what came of it."""

    kind: str
    tried: int
    failures: tuple[str, ...] = ()

    @property
    def held(self) -> int:
        """The tries that ended as they must."""
        return self.tried - len(self.failures)


class Campaign(Protocol):
    """A module of this folder: `run` tries each of its kinds within the budget and yields its row."""

    def run(self, budget: Budget) -> Iterator[Row]:
        """The rows, each as soon as its kind is done."""
        ...
