"""Progress: how a long examination reports how far it has come."""

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what, done, all) as the answers come in."""


def silent(_what: str, _done: int, _everything: int) -> None:
    """Reports nothing."""
