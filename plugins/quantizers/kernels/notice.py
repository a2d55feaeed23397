"""Notice: tells listeners that a kernel is being compiled, which takes seconds and happens once on each machine.

This is a module of its own so that a listener need not import numba.
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
