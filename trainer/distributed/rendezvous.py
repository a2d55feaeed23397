"""Rendezvous: the processes of one attempt find each other, and never what an earlier attempt left behind.

torchrun keeps one key-value store over all restarts, and torch gives each attempt the same keys. A process that is
faster than another then reads the addresses of dead processes: "connection refused", or a wait without end.
So the processes first agree on a name that no attempt had before, and keep everything under it.
"""

import secrets
import time
from datetime import timedelta

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from conform.trainer.errors import TrainError

__all__ = ["fresh_store", "meet"]

_PAUSE = 0.02


def fresh_store(limit: timedelta) -> tuple[Store, int, int]:
    """A store of this attempt alone, this process's rank, and the number of processes; from torchrun's environment."""
    store, rank, size = next(rendezvous("env://", timeout=limit))
    return PrefixStore(meet(store, rank, size, limit), store), rank, size


def meet(store: Store, rank: int, size: int, limit: timedelta) -> str:
    """A random name of the first process, the same in every process.

    Every other process says hello with a random word and waits for the answer to that word, so that no old answer can
    be taken for it; the first process answers every hello until all have acknowledged its name.
    Raises TrainError when that takes longer than `limit`.
    """
    deadline = time.monotonic() + limit.total_seconds()
    if rank == 0:
        return _invite(store, size, deadline)
    word = secrets.token_hex(8)
    store.set(f"conform/hello/{rank}", word)
    _wait(store, f"conform/answer/{word}", deadline)
    name = store.get(f"conform/answer/{word}").decode()
    store.set(f"conform/here/{name}/{rank}", "")
    return name


def _invite(store: Store, size: int, deadline: float) -> str:
    name = secrets.token_hex(8)
    missing = set(range(1, size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"conform/hello/{rank}"]):
                word = store.get(f"conform/hello/{rank}").decode()
                store.set(f"conform/answer/{word}", name)
            if store.check([f"conform/here/{name}/{rank}"]):
                missing.discard(rank)
        _pause(deadline, f"process {min(missing, default=0)} did not come")
    return name


def _wait(store: Store, key: str, deadline: float) -> None:
    while not store.check([key]):
        _pause(deadline, "the first process did not answer")


def _pause(deadline: float, problem: str) -> None:
    if time.monotonic() > deadline:
        raise TrainError(f"the processes of the run did not meet: {problem}; see --timeout")
    time.sleep(_PAUSE)
