from dataclasses import replace

import numpy as np
import pytest

from conform.parity.reference.metrics import Closeness
from conform.parity.rungs.agreement import Agreement
from conform.parity.rungs.implementation import Position
from conform.parity.rungs.source import CheckedSource, UncheckedSource, judge_source


def seen(nmse, noise=(1e-12,) * 4):
    runtime, own = (Closeness(np.array(figures), np.zeros(4)) for figures in (nmse, noise))
    agreement = Agreement(runtime, own, None, np.ones(4, dtype=np.bool_))
    return CheckedSource("other 1.0, Llama", [Position("prose", n) for n in range(4)], agreement, 1e-9, 0.0)


def test_within_the_floor_it_passes_and_says_what_it_was_compared_with():
    result = judge_source(seen([1e-12, 1e-11, 9e-7, 1e-12]))
    assert (result.status, result.compared, result.unit) == ("pass", 4, "positions")
    assert result.notes == ("against other 1.0, Llama", "worst at position 2 of prose")


@pytest.mark.parametrize("figures", [[1e-12, 1e-12, 2e-6, 1e-12], [2e-6] * 4, [float("nan")] * 4])
def test_beyond_the_floor_it_fails(figures):
    assert judge_source(seen(figures)).status == "fail"


def test_where_rounding_makes_noise_the_tolerance_follows_it():
    assert judge_source(seen([3e-4] * 4, noise=[1e-4] * 4)).passed
    assert not judge_source(seen([5e-4] * 4, noise=[1e-4] * 4)).passed


def test_nothing_compared_is_not_a_pass():
    nothing = Closeness(np.empty(0), np.empty(0))
    empty = Agreement(nothing, nothing, None, np.empty(0, dtype=np.bool_))
    result = judge_source(replace(seen([0.0] * 4), positions=[], agreement=empty))
    assert (result.status, result.reason) == ("fail", "nothing was compared")


def test_without_a_checkpoint_it_is_not_run():
    result = judge_source(None)
    assert (result.status, result.blocks) == ("not run", False)
    assert "--checkpoint" in result.reason


def test_without_another_implementation_the_source_is_not_checked():
    result = judge_source(UncheckedSource("transformers is not installed", tried=False))
    assert (result.status, result.blocks) == ("not run", False)
    assert result.reason == "source not checked: transformers is not installed"


def test_an_implementation_that_cannot_run_the_checkpoint_is_a_failure():
    result = judge_source(UncheckedSource("transformers cannot run this checkpoint: oops", tried=True))
    assert (result.status, result.blocks) == ("fail", True)
    assert "oops" in result.reason


@pytest.mark.parametrize("tried", [True, False])
def test_what_is_waived_says_why_and_what_was_not_done(tried):
    result = judge_source(UncheckedSource("it is not installed", tried, "assumed, as --assume-source says"))
    assert (result.status, result.blocks) == ("waived", False)
    assert (result.reason, result.notes) == ("assumed, as --assume-source says", ("it is not installed",))
