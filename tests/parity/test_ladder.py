"""Which rung gates which, on rungs that are made up."""

import subprocess
import sys

import pytest

from conform.core.errors import GGUFError
from conform.core.runtime import RuntimeFault
from conform.parity.ladder import climb
from conform.parity.verdict import RUNGS, Measurement, judged, not_run

# What is not run when this rung fails.
BLOCKED = {
    "file": ["tokens", "weights", "implementation", "quantisation", "greedy", "sampling", "likelihood"],
    "tokens": ["implementation", "greedy", "sampling", "likelihood"],
    "weights": [],
    "implementation": ["greedy", "sampling", "likelihood"],
    "source": ["quantisation", "likelihood"],
    "quantisation": ["likelihood"],
    "greedy": [],
    "sampling": [],
    "likelihood": [],
    "integrity": [],
}


def rungs(**instead):
    """Rungs that pass, but for those named."""
    passing = {rung: lambda rung=rung: judged(rung, 1, "things", [Measurement("number", 1.0, 2.0)]) for rung in RUNGS}
    return passing | instead


def raising(error):
    def judge():
        raise error

    return judge


def not_run_in(results):
    return [rung for rung in RUNGS if results[rung].status == "not run"]


def test_every_rung_has_a_result():
    results = climb(rungs())
    assert tuple(results) == RUNGS
    assert all(result.passed for result in results.values())


@pytest.mark.parametrize("rung", RUNGS)
def test_what_builds_on_a_failed_rung_is_not_run(rung):
    results = climb(rungs(**{rung: lambda: judged(rung, 0, "things")}))
    assert not_run_in(results) == BLOCKED[rung]


@pytest.mark.parametrize("rung", RUNGS)
def test_what_builds_on_a_rung_that_could_not_run_is_run(rung):
    results = climb(rungs(**{rung: lambda: not_run(rung, "no checkpoint; none has failed")}))
    assert not_run_in(results) == [rung]


@pytest.mark.parametrize("rung", RUNGS)
def test_keep_going_runs_every_rung(rung):
    assert not_run_in(climb(rungs(**{rung: lambda: judged(rung, 0, "things")}), keep_going=True)) == []


def test_a_blocked_rung_says_what_blocks_it():
    results = climb(
        rungs(tokens=lambda: judged("tokens", 0, "ids"), quantisation=lambda: judged("quantisation", 0, ""))
    )
    assert (results["implementation"].blocked_by, results["implementation"].reason) == (("tokens",), "tokens failed")
    assert results["likelihood"].blocked_by == ("implementation", "quantisation")
    assert results["likelihood"].reason == "implementation was not run and quantisation failed"


@pytest.mark.parametrize("kind", ["refused", "crashed", "timed out", "answered wrongly"])
@pytest.mark.parametrize("rung", RUNGS)
def test_a_rung_whose_question_is_not_answered_fails_by_that_kind(rung, kind):
    results = climb(rungs(**{rung: raising(RuntimeFault(kind, "for a test"))}))
    assert (results[rung].status, results[rung].fault) == ("fail", kind)
    assert not_run_in(results) == BLOCKED[rung]


def test_an_error_of_ours_fails_the_rung_with_its_sentence():
    results = climb(rungs(weights=raising(GGUFError("blk.0.attn_q.weight is missing"))))
    assert results["weights"].reason == "blk.0.attn_q.weight is missing"


def test_a_damaged_file_may_break_a_computation_and_a_sound_one_may_not():
    damaged = rungs(file=lambda: judged("file", 0, "keys"), quantisation=raising(ValueError("shapes differ\nthere")))
    results = climb(damaged, keep_going=True)
    assert results["quantisation"].reason == "the file cannot be computed with: shapes differ"
    with pytest.raises(ValueError, match="shapes differ"):
        climb(rungs(quantisation=raising(ValueError("shapes differ"))))


def test_ladder_and_rungs_need_no_torch():
    names = ", ".join(f"conform.parity.rungs.{rung}" for rung in (*RUNGS, "agreement", "ceilings", "localise"))
    code = f"import sys, conform.parity.ladder, {names}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
