"""Cores: how many processors this process may use."""

import os

__all__ = ["usable_cores"]


def usable_cores() -> int:
    """The processors that this process may use, at least 1."""
    if hasattr(os, "process_cpu_count"):  # Python 3.13 and later
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
