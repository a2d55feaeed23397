from dataclasses import replace

import numpy as np
import pytest

from conform.core.runtime import Sampling
from conform.parity.reference.sampler import Xorshift64Star, choose
from conform.parity.rungs.sampling import SampledRun, judge_sampling

KNOWN = "xorshift64*"
LOGITS = [row.astype(np.float32) for row in np.random.default_rng(3).normal(size=(10, 16))]
OPTIONS = [Sampling(1, 0.8), Sampling(2, 1.2, top_k=3), Sampling(3, 1.0, top_p=0.5)]


def run(sampling=OPTIONS[0]):
    generator = Xorshift64Star(sampling.seed)
    drawn = [choose(logits, sampling, generator).token for logits in LOGITS]
    return SampledRun("seed", sampling, drawn, LOGITS, [1e-6] * len(LOGITS), b"a clock", b"a clock")


def likeliest(sampled):
    return replace(sampled, drawn=[int(logits.argmax()) for logits in LOGITS])


@pytest.mark.parametrize("sampling", OPTIONS)
def test_draws_of_the_documented_generator_pass(sampling):
    result = judge_sampling([run(sampling)], KNOWN)
    assert result.passed
    assert result.compared == 10


def test_draws_of_another_generator_fail_where_its_name_is_given():
    assert not judge_sampling([likeliest(run())], KNOWN).passed


def test_an_unknown_generator_is_judged_by_the_options_alone_and_the_notes_say_so():
    result = judge_sampling([likeliest(run())], "unknown")
    assert result.passed
    assert "unknown" in result.notes[0]


@pytest.mark.parametrize("generator", [KNOWN, "unknown"])
@pytest.mark.parametrize("sampling", OPTIONS[1:])
def test_a_token_that_the_options_rule_out_fails_whatever_the_generator(sampling, generator):
    outside = replace(run(sampling), drawn=[int(logits.argmin()) for logits in LOGITS])
    result = judge_sampling([outside], generator)
    assert not result.passed
    assert "token 0" in result.findings[0].where


def test_another_draw_from_the_right_nucleus_is_a_note():
    result = judge_sampling([likeliest(run(OPTIONS[2]))], KNOWN)
    assert result.passed
    assert "from the right nucleus" in result.notes[0]


@pytest.mark.parametrize(("tie", "excused"), [(0.002, True), (0.0005, False)])
def test_a_draw_is_excused_where_the_measured_difference_reaches_the_edge(tie, excused):
    """Ours draws token 1, whose edge to token 0 lies a thousandth below the number drawn; the runtime says token 0."""
    edge = Xorshift64Star(1).uniform() - 1e-3
    logits = np.log([edge, 1 - edge]).astype(np.float32)
    result = judge_sampling([SampledRun("seed", Sampling(1, 1.0), [0], [logits], [tie], b"", b"")], KNOWN)
    assert result.passed is excused
    assert result.measurements[1].measured == excused


def test_the_same_seed_must_give_the_same_text():
    result = judge_sampling([replace(run(), repeated=b"another")], KNOWN)
    assert not result.passed
    assert result.findings[0].where == "seed: second run"


@pytest.mark.parametrize("runs", [[], [SampledRun("seed", OPTIONS[0], [], [], [], b"", b"")]])
def test_no_draw_is_not_a_pass(runs):
    result = judge_sampling(runs, KNOWN)
    assert (result.status, result.reason) == ("fail", "nothing was compared")
