import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.trainer.data.permutation import permute


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1), st.integers(0, 2**32))
def test_every_place_is_taken_once(n, seed, epoch):
    assert sorted(permute(np.arange(n), n, (seed, epoch))) == list(range(n))


@pytest.mark.parametrize("n", [2**40 - 1, 2**40, 2**40 + 1, 2**61])
def test_huge_ranges_cost_nothing_to_shuffle(n):
    places = permute(np.arange(1000), n, (1, 2))
    assert len(set(places.tolist())) == 1000
    assert places.min() >= 0
    assert places.max() < n


def test_one_index_at_a_time_gives_the_same_places():
    together = permute(np.arange(100), 100, (5, 6))
    assert [int(permute(np.array([i]), 100, (5, 6))[0]) for i in range(100)] == together.tolist()


def test_the_indices_given_are_left_alone():
    indices = np.arange(10)
    permute(indices, 10, (1, 1))
    assert indices.tolist() == list(range(10))


def test_the_shuffle_is_frozen():
    # A change here changes the order of every run that is resumed across it.
    assert permute(np.arange(12), 12, (1234, 0)).tolist() == [5, 8, 11, 7, 4, 9, 2, 0, 1, 10, 6, 3]


@pytest.mark.parametrize("other", [(1234, 1), (1235, 0), (1234 + 2**63, 0)])
def test_seed_and_epoch_change_the_order(other):
    n = 1000
    same = permute(np.arange(n), n, (1234, 0)) == permute(np.arange(n), n, other)
    assert same.mean() < 0.02


@pytest.mark.parametrize("n", [1000, 1024, 1025, 5000])
def test_neighbours_are_spread_like_a_random_shuffle(n):
    places = permute(np.arange(n), n, (9, 9))
    steps = np.abs(np.diff(places))
    # The mean distance of two random places is n / 3.
    assert abs(steps.mean() / (n / 3) - 1) < 0.1
    assert abs(np.corrcoef(np.arange(n), places)[0, 1]) < 0.1


@pytest.mark.parametrize("n", [3, 5, 7])
def test_small_ranges_reach_every_order(n):
    first = [int(permute(np.array([0]), n, (seed, 0))[0]) for seed in range(2000)]
    counts = np.bincount(first, minlength=n) / 2000
    assert counts.min() > 0.7 / n
    assert counts.max() < 1.3 / n
