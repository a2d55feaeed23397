from dataclasses import replace

import numpy as np
import pytest

from conform.parity.comparison import BestLogits
from conform.parity.reference.metrics import Closeness
from conform.parity.rungs.agreement import Agreement
from conform.parity.rungs.implementation import Position, WatchedPositions, judge_implementation


def watched(differences=(1e-6, 1e-5, 1e-6, 1e-6), debug_error=1e-6):
    figures = np.array(differences, dtype=np.float64)
    rows = len(figures)
    still = Closeness(np.zeros(rows), np.zeros(rows))
    return WatchedPositions(
        positions=[Position("prose", number) for number in range(rows)],
        watched={"text": rows},
        agreement=Agreement(Closeness(figures**2, figures), still, None, np.ones(rows, dtype=bool)),
        best=BestLogits(np.arange(rows), np.arange(rows), np.zeros(rows), np.zeros(rows)),
        debug_error=debug_error,
    )


def test_a_runtime_within_its_tolerance_passes():
    result = judge_implementation(watched())
    assert result.passed
    assert (result.compared, result.unit) == (4, "positions")
    assert result.notes == ("worst at position 1 of prose", "positions watched: text 4")


@pytest.mark.parametrize("difference", [1.0, np.inf, np.nan])
def test_one_wrong_position_fails(difference):
    assert not judge_implementation(watched((1e-6, difference, 1e-6, 1e-6))).passed


@pytest.mark.parametrize("error", [1e-3, np.inf, np.nan])
def test_a_best_logit_that_its_hidden_state_does_not_give_fails(error):
    seen = watched()
    best = replace(seen.best, error=np.array([0.0, error, 0.0, 0.0]))
    assert not judge_implementation(replace(seen, best=best)).passed


@pytest.mark.parametrize("behind", [1e-3, np.nan])
def test_a_best_token_that_is_clearly_behind_another_fails_by_position(behind):
    seen = watched()
    best = replace(seen.best, found=np.array([0, 9, 2, 3]), behind=np.array([0.0, behind, 0.0, 0.0]))
    result = judge_implementation(replace(seen, best=best))
    assert not result.passed
    assert (result.findings[0].where, result.findings[0].expected) == ("prose, position 1", "the best token, 9")


def test_debug_logits_are_judged_like_the_worst_position():
    assert not judge_implementation(watched(debug_error=1e-3)).passed


def test_a_runtime_without_debug_logits_passes_and_the_notes_say_so():
    result = judge_implementation(watched(debug_error=None))
    assert result.passed
    assert "no debug logits" in result.notes[-1]


@pytest.mark.parametrize("rows", [0, 2])
def test_no_judged_position_is_not_a_pass(rows):
    seen = watched((1e-6,) * rows)
    nothing = replace(seen.agreement, judged=np.zeros(rows, dtype=bool))
    result = judge_implementation(replace(seen, agreement=nothing))
    assert (result.status, result.reason) == ("fail", "nothing was compared")
