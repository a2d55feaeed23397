"""Allocator: glibc keeps what a step frees, so that the next step need not ask the kernel for it again."""

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Make glibc serve large blocks from its heap and never shrink the heap; False where there is no glibc.

    By default each large activation is mapped afresh, and the kernel clears its pages one fault at a time: 40,000
    faults and a fifth of the time of a training step of 8 million parameters, against 500 faults this way.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 256 << 20))
    return all(mallopt(name, value) for name, value in settings)
