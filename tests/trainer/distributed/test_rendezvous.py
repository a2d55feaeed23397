from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import HashStore

from conform.trainer.distributed.rendezvous import meet
from conform.trainer.errors import TrainError

SOON = timedelta(seconds=20)


def attempt(store, size):
    with ThreadPoolExecutor(size) as pool:
        names = list(pool.map(lambda rank: meet(store, rank, size, SOON), reversed(range(size))))
    assert len(set(names)) == 1
    return names[0]


def test_every_process_has_the_same_name():
    assert attempt(HashStore(), 3)


def test_a_restart_in_the_same_store_has_a_name_of_its_own():
    store = HashStore()
    assert len({attempt(store, 3) for _ in range(4)}) == 4


def test_what_a_killed_attempt_left_is_never_taken_for_an_answer():
    store = HashStore()
    attempt(store, 2)
    # A process that died before anyone answered it.
    store.set("conform/hello/1", "a dead process's word")
    assert attempt(store, 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_left_alone_gives_up(rank):
    with pytest.raises(TrainError, match="did not meet"):
        meet(HashStore(), rank, 2, timedelta(seconds=0.1))
