"""Notice: who is told that a search kernel is being compiled, which takes seconds, once on a machine.

A module of its own because those who want to be told must not import numba for it.
"""

from collections.abc import Callable

__all__ = ["notify", "on_compile"]

_listeners: list[Callable[[str], None]] = []


def on_compile(listener: Callable[[str], None]) -> None:
    """From now on, tell `listener` the module of each kernel that is not on disk yet, before it is compiled."""
    _listeners.append(listener)


def notify(module: str) -> None:
    """Tell every listener."""
    for listener in _listeners:
        listener(module)
