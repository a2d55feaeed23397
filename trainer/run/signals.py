"""Signals: Ctrl-C and SIGTERM become a request to stop after the step; a second one stops at once."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from conform.trainer.distributed.world import World

__all__ = ["StopRequest"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """While it is entered, `signal` is the number of the first signal that asked to stop, or 0.

    A second one raises KeyboardInterrupt, unless it comes within `echo` seconds of the first: a scheduler that signals
    every process of a job also reaches torchrun, which passes the same signal on to its processes once more.
    """

    def __init__(self, echo: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.signal = 0
        self._echo, self._clock = echo, clock
        self._since = 0.0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def agreed(self, world: World) -> int:
        """The signal that any process has had, the same in each, or 0: all must stop at the same step."""
        counts = world.sums([float(self.signal == number) for number in _SIGNALS])
        return next((int(number) for number, count in zip(_SIGNALS, counts, strict=True) if count), 0)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        now = self._clock()
        if not self.signal:
            self.signal, self._since = number, now
        elif now - self._since >= self._echo:
            raise KeyboardInterrupt
