from dataclasses import replace

import pytest

from conform.parity.rungs.greedy import GreedyRun, GreedyToken, judge_greedy

RIGHT = GreedyToken(chosen=7, claimed=7, best=7, gap=0.0, tie=1e-3)
NEAR = GreedyToken(chosen=8, claimed=8, best=7, gap=5e-4, tie=1e-3)
FAR = GreedyToken(chosen=9, claimed=9, best=7, gap=0.5, tie=1e-3)


def run(*tokens, text=b"a clock"):
    return GreedyRun("greedy after 'a'", tokens, text, text, text)


def test_the_reference_s_own_tokens_pass():
    result = judge_greedy([run(RIGHT, RIGHT), run(RIGHT)])
    assert result.passed
    assert result.compared == 3


def test_a_mismatch_fails_and_is_named():
    result = judge_greedy([run(*[RIGHT] * 10, FAR)])
    assert not result.passed
    assert (result.findings[0].where, result.findings[0].expected) == ("greedy after 'a', token 10", "token 7")


@pytest.mark.parametrize(("right", "passes"), [(9, True), (8, False)])
def test_one_mismatch_in_ten_is_excused_at_a_tie(right, passes):
    result = judge_greedy([run(*[RIGHT] * right, NEAR)])
    assert result.passed is passes
    assert result.measurements[1].measured == 1


@pytest.mark.parametrize("other", [{"unwatched": b"another"}, {"forced": b"another"}])
def test_one_text_for_all_three_runs(other):
    assert not judge_greedy([replace(run(RIGHT), **other)]).passed


def test_a_sampler_that_does_not_take_the_best_token_is_not_greedy():
    result = judge_greedy([run(RIGHT, replace(RIGHT, claimed=3))])
    assert not result.passed
    assert result.findings[0].hint == "its sampler is not greedy"


@pytest.mark.parametrize("runs", [[], [run()]])
def test_no_token_is_not_a_pass(runs):
    result = judge_greedy(runs)
    assert (result.status, result.reason) == ("fail", "nothing was compared")
