import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.runtime import GREEDY, Sampling
from conform.parity.reference.sampler import Xorshift64Star, choose, nucleus, uncertain_temperature

LOGITS = np.array([1.0, 3.0, 3.0, -2.0, 0.5], dtype=np.float32)


def test_the_generator_gives_the_published_numbers():
    """The first outputs for seed 1, computed with Go's uint64 arithmetic written out."""
    mask = (1 << 64) - 1
    x = 1 ^ 0x9E3779B97F4A7C15
    x ^= x >> 12
    x = (x ^ (x << 25)) & mask
    x ^= x >> 27
    expected = np.float32(((x * 2685821657736338717) & mask) / 2**64)
    assert Xorshift64Star(1).uniform() == pytest.approx(expected, abs=1e-7)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_seed_gives_numbers_between_zero_and_one(seed):
    generator = Xorshift64Star(seed)
    numbers = [generator.uniform() for _ in range(5)]
    assert all(0 <= number <= 1 for number in numbers)
    assert len(set(numbers)) > 1


def test_the_seed_that_would_give_zero_forever_does_not():
    generator = Xorshift64Star(0x9E3779B97F4A7C15 - (1 << 64))
    assert generator.uniform() != generator.uniform()


def test_greedy_takes_the_first_of_equals_and_draws_nothing():
    generator = Xorshift64Star(1)
    first = Xorshift64Star(1).uniform()
    assert choose(LOGITS, GREEDY, generator).token == 1
    assert generator.uniform() == first


def test_one_number_is_drawn_for_each_sampled_token():
    generator, other = Xorshift64Star(5), Xorshift64Star(5)
    choose(LOGITS, Sampling(5, 1.0), generator)
    other.uniform()
    assert generator.uniform() == other.uniform()


def test_top_k_of_one_is_greedy():
    assert {choose(LOGITS, Sampling(s, 2.0, 1), Xorshift64Star(s)).token for s in range(50)} == {1}


def test_top_k_keeps_the_earlier_of_equals():
    logits = np.array([0.0, 1.0, 1.0, 1.0], dtype=np.float32)
    assert {choose(logits, Sampling(s, 1.0, 2), Xorshift64Star(s)).token for s in range(200)} == {1, 2}


def test_top_p_draws_from_the_nucleus_only():
    sampling = Sampling(0, 1.0, 0, 0.8)
    assert (
        {choose(LOGITS, sampling, Xorshift64Star(s)).token for s in range(200)} == nucleus(LOGITS, sampling) == {1, 2}
    )


@pytest.mark.parametrize("top_p", [0.0, 1.0, -1.0, 1.5, float("nan")])
def test_a_top_p_outside_its_range_is_off(top_p):
    drawn = {choose(LOGITS, Sampling(s, 3.0, 0, top_p), Xorshift64Star(s)).token for s in range(400)}
    assert drawn == set(range(5))


def test_frequencies_are_the_probabilities():
    generator = Xorshift64Star(7)
    counts = np.bincount([choose(LOGITS, Sampling(7, 1.0), generator).token for _ in range(20_000)], minlength=5)
    expected = np.exp(LOGITS) / np.exp(LOGITS).sum()
    np.testing.assert_allclose(counts / counts.sum(), expected, atol=0.015)


def test_the_margin_is_the_distance_to_the_next_token():
    draw = choose(np.zeros(2, dtype=np.float32), Sampling(1, 1.0), Xorshift64Star(1))
    assert draw.margin == pytest.approx(abs(float(Xorshift64Star(1).uniform()) - 0.5))


@given(st.floats(0.01, 100))
def test_at_the_uncertain_temperature_nothing_is_certain(size):
    logits = (np.random.default_rng(0).normal(size=100) * size).astype(np.float32)
    temperature = uncertain_temperature(logits)
    weights = np.exp((logits.astype(np.float64) - logits.max()) / temperature)
    assert 1 / weights.sum() == pytest.approx(1 / 3, rel=0.01)
