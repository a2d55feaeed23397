from dataclasses import replace

import pytest

from conform.parity.reference.metrics import Divergence
from conform.parity.rungs.quantisation import FileDivergence, judge_quantisation

NATURAL = Divergence(mean=0.01, p99=0.05, largest=0.1, positions=500, same_top=0.98)
NOTHING = Divergence(float("inf"), float("inf"), float("inf"), 0, 0.0)
SEEN = FileDivergence(NATURAL, replace(NATURAL, mean=5.0), ceiling=0.02, reason="ceiling of q8_0")


def test_under_the_ceiling_it_passes_whatever_the_other_sequences_cost():
    result = judge_quantisation(SEEN)
    assert result.passed
    assert result.compared == 500
    assert result.measurements[0].how == "ceiling of q8_0"
    assert result.measurements[-1].measured == 5.0


@pytest.mark.parametrize("mean", [0.03, float("inf"), float("nan")])
def test_over_the_ceiling_it_fails(mean):
    assert not judge_quantisation(replace(SEEN, natural=replace(NATURAL, mean=mean))).passed


def test_no_position_is_not_a_pass():
    result = judge_quantisation(replace(SEEN, natural=NOTHING, unnatural=NOTHING))
    assert (result.status, result.reason) == ("fail", "nothing was compared")


def test_without_a_checkpoint_it_is_not_run_and_blocks_nothing():
    result = judge_quantisation(None)
    assert result.status == "not run"
    assert "--checkpoint" in result.reason
    assert not result.blocks
