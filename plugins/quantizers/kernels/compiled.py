"""Compiled: how search kernels are compiled, and half precision inside them. Import lazily: this imports numba.

No kernel uses fast-math: sums are made in the order that is written, and products are rounded before they are added,
so that the bytes depend on neither the width of the machine's vectors nor its fused multiply-add.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numba import njit
from numba.core import event

from conform.plugins.quantizers.kernels.notice import notify

__all__ = ["half_bits", "half_value", "inside", "kernel", "scalar"]

_Function = TypeVar("_Function", bound=Callable[..., object])
_SUBNORMAL = np.float32(2.0**24)
_SMALLEST_NORMAL = np.float32(2.0**-14)
_OVERFLOW = np.float32(65520)

# Kernels and the modules they stand in, until the compilation of one is announced.
_unannounced: dict[object, str] = {}


class _Announcer(event.Listener):  # type: ignore[misc]  # numba ships no types
    """Announces each module whose kernels are compiled, rather than loaded from disk."""

    def on_start(self, event: event.Event) -> None:
        module = _unannounced.get(event.data["dispatcher"])
        # The helpers of this module compile in a moment, within whichever kernel needs them.
        if module is not None and module != "compiled":
            for known in [each for each, where in _unannounced.items() if where == module]:
                del _unannounced[known]
            notify(module)

    def on_end(self, event: event.Event) -> None:
        """Does nothing: only the start is announced."""


event.register("numba:compile", _Announcer())


def kernel(function: _Function) -> _Function:
    """Compile on the first call for this machine, and keep the result on disk; runs without the interpreter lock.

    The kept code is valid until the kernel's own source file changes. numba does not see a change in another file whose
    functions are compiled into the kernel: after editing one, touch the files of the kernels that call it.
    """
    compiled: _Function = njit(nogil=True, cache=True, error_model="numpy")(function)
    _unannounced[compiled] = function.__module__.rpartition(".")[2]
    return compiled


def scalar(function: _Function) -> _Function:
    """Compile a small function of numbers; LLVM inlines it into the loop that calls it, and vectorises that."""
    compiled: _Function = njit(nogil=True, error_model="numpy")(function)
    return compiled


def inside(function: _Function) -> _Function:
    """Compile once, and inline into its callers as machine code, however long it is."""
    compiled: _Function = njit(nogil=True, forceinline=True, error_model="numpy")(function)
    return compiled


@kernel
def half_bits(value: np.float32) -> np.int64:
    """The bits of the nearest float16, ties to even; infinity from 65520 on."""
    bits = np.int64(np.float32(value).view(np.int32))
    sign = (bits >> 16) & 0x8000
    magnitude = np.float32(abs(value))
    if magnitude >= _OVERFLOW:
        return sign | 0x7C00
    if magnitude < _SMALLEST_NORMAL:
        return sign | np.int64(np.rint(magnitude * _SUBNORMAL))
    bits &= 0x7FFFFFFF
    return sign | (((bits + 0xFFF + ((bits >> 13) & 1)) >> 13) - (112 << 10))


@kernel
def half_value(half: np.int64) -> np.float32:
    """The value of the bits of a finite float16."""
    if half & 0x7C00:
        magnitude = np.int32(((half & 0x7FFF) + (112 << 10)) << 13).view(np.float32)
    else:
        magnitude = np.float32(half & 0x3FF) / _SUBNORMAL
    return -magnitude if half & 0x8000 else magnitude
