"""Progress: how a long examination tells how far it is."""

from collections.abc import Callable
from typing import TypeAlias

__all__ = ["Progress", "silent"]

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with (what, done, all) as the answers come in."""


def silent(_what: str, _done: int, _everything: int) -> None:
    """Tells nobody."""
