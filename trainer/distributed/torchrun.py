"""Torchrun: what the environment variables of its processes say, read without importing torch."""

import os

__all__ = ["is_first_of_host", "is_worker", "restarts"]


def is_worker() -> bool:
    """True when torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first_of_host() -> bool:
    """True in one process of each host."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def restarts() -> int:
    """How many times torchrun has restarted the processes of the run."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
