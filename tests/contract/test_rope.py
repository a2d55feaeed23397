"""Frequencies against those of transformers, whose numbers lie in rope_of_transformers.json.

They are those of `LlamaRotaryEmbedding(config)` of transformers 5.24 in float32, for a `LlamaConfig` with 2 heads of 16
and `rope_parameters` as in `rope`, beside `rope_theta` as in `base`: its `inv_freq`, its `attention_scaling`, and the
first half of what it returns for the positions. `scaling` is what a contract says of the same model. For `logits` see
tests/parity/reference/test_rope.py.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.contract.rope import Rope, frequency_factors, rope_of, yarn_magnitude, yarn_range
from conform.contract.spec import RopeScaling

CASES = json.loads((Path(__file__).parent / "rope_of_transformers.json").read_text())
LLAMA3 = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 16.0, 4096, beta_fast=32.0, beta_slow=1.0, attention_factor=yarn_magnitude(16.0))


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def test_the_frequencies_are_those_of_transformers(case):
    expected = [float.fromhex(frequency) for frequency in case["frequencies"]]
    np.testing.assert_allclose(
        rope_of(case["base"], 16, RopeScaling(**case["scaling"])).frequencies, expected, rtol=1e-6
    )


def test_without_scaling_they_fall_from_1_by_powers_of_the_base():
    assert rope_of(10000.0, 8, None) == Rope((1.0, 10**-1, 10**-2, 10**-3))


def test_the_magnitude_is_that_of_the_contract():
    assert rope_of(10000.0, 8, YARN).magnitude == pytest.approx(1.27725887)
    assert rope_of(10000.0, 8, LLAMA3).magnitude == 1


def test_yarn_suggests_the_magnitude_of_the_paper():
    assert yarn_magnitude(math.e**2) == pytest.approx(1.2)
    assert (yarn_magnitude(1.0), yarn_magnitude(0.5)) == (1, 1)


def test_linear_scaling_divides_all_alike():
    assert frequency_factors(10000.0, 8, RopeScaling("linear", 3.0)) == (3.0,) * 4


@pytest.mark.parametrize("scaling", [LLAMA3, YARN], ids=["llama3", "yarn"])
def test_fast_pairs_are_kept_and_slow_ones_divided_by_the_factor(scaling):
    factors = frequency_factors(500000.0, 128, scaling)
    assert (factors[0], factors[-1]) == (1, scaling.factor)
    assert list(factors) == sorted(factors)
    assert any(1 < factor < scaling.factor for factor in factors)


@given(st.floats(1, 1000), st.integers(1, 2**20), st.floats(1.001, 1e7), st.sampled_from([2, 8, 64, 128]))
def test_no_factor_leaves_its_bounds(factor, context, base, dim):
    llama3 = RopeScaling("llama3", factor, context, low_freq_factor=1.0, high_freq_factor=4.0)
    yarn = RopeScaling("yarn", factor, context, beta_fast=32.0, beta_slow=1.0, attention_factor=1.0)
    for scaling in (llama3, yarn):
        factors = frequency_factors(base, dim, scaling)
        assert len(factors) == dim // 2
        assert all(1 - 1e-9 <= each <= factor * (1 + 1e-9) for each in factors)


def test_the_range_of_yarn_lies_between_32_turns_and_1_turn():
    """In 4096 positions, at base 10000 and dimension 64, pair 10.5 would turn 32 times and pair 22.5 once."""
    assert yarn_range(10000.0, 64, YARN) == (10, 23)


def test_a_context_in_which_nothing_turns_has_no_range():
    tiny = RopeScaling("yarn", 4.0, 1, beta_fast=32.0, beta_slow=1.0, attention_factor=1.0)
    first, last = yarn_range(10000.0, 64, tiny)
    assert first > last
