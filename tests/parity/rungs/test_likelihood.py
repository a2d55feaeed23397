import math

import pytest

from conform.parity.rungs.likelihood import LikelihoodChange, LikelihoodChanges, RuntimeChange, judge_likelihood

RUNTIME = RuntimeChange(nats=-5e-5, noise=1e-7, tokens=23)
# 0.01 + 3 · sqrt(2 · 0.01 / 200) = 0.04
FILE = LikelihoodChange(nats=-0.039, tokens=200, checkpoint=5.3)


def test_within_both_tolerances_it_passes():
    result = judge_likelihood(LikelihoodChanges(RUNTIME, FILE, 0.01))
    assert result.passed
    assert result.compared == 23
    assert math.isclose(result.measurements[1].tolerance, 0.04)


@pytest.mark.parametrize("nats", [2e-4, -2e-4, math.inf, math.nan])
def test_a_runtime_that_finds_prose_more_or_less_likely_fails(nats):
    assert not judge_likelihood(LikelihoodChanges(RuntimeChange(nats, 1e-7, 23), FILE, 0.01)).passed


def test_the_tolerance_follows_the_noise():
    assert judge_likelihood(LikelihoodChanges(RuntimeChange(2e-4, 1e-4, 23))).measurements[0].tolerance == 4e-4


@pytest.mark.parametrize("nats", [0.041, -0.041, math.nan])
def test_a_file_that_changes_likelihood_by_more_than_its_kl_allows_fails(nats):
    assert not judge_likelihood(LikelihoodChanges(RUNTIME, LikelihoodChange(nats, 200, 5.3), 0.01)).passed


def test_without_a_checkpoint_the_runtime_alone_is_judged():
    result = judge_likelihood(LikelihoodChanges(RUNTIME))
    assert result.passed
    assert len(result.measurements) == 1


def test_no_token_is_not_a_pass():
    result = judge_likelihood(LikelihoodChanges(RuntimeChange(math.inf, 0.0, 0)))
    assert (result.status, result.reason) == ("fail", "nothing was compared")
