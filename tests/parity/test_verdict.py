import dataclasses
import json

import pytest

from conform.contract.finding import Finding
from conform.core.runtime import RuntimeFault
from conform.parity.verdict import RUNGS, Ledger, Measurement, Verdict, faulted, judged, not_run, waived


def passing():
    return tuple(judged(rung, 1, "things", [Measurement("number", 1.0, 2.0)]) for rung in RUNGS)


def test_a_verdict_passes_when_every_rung_does():
    assert Verdict("m", passing()).passed


def test_a_missing_rung_is_a_failure():
    assert not Verdict("m", passing()[:-1]).passed
    assert not Verdict("m", ()).passed


@pytest.mark.parametrize("place", range(len(RUNGS)))
def test_one_failed_rung_is_a_failure(place):
    rungs = list(passing())
    rungs[place] = not_run(RUNGS[place], "why")
    assert not Verdict("m", tuple(rungs)).passed


def test_a_rung_that_was_waived_says_why_and_does_not_hold_the_verdict_up():
    result = waived("source", "not required")
    rungs = tuple(result if rung.rung == "source" else rung for rung in passing())
    assert Verdict("m", rungs).passed
    assert (result.passed, result.blocks, result.status) == (False, False, "waived")
    assert Verdict("m", rungs).to_json()["rungs"][RUNGS.index("source")]["reason"] == "not required"


def test_nothing_compared_is_a_failure():
    result = judged("weights", 0, "tensors", [Measurement("number", 0.0, 1.0)])
    assert not result.passed
    assert result.reason == "nothing was compared"


@pytest.mark.parametrize("measured", [1.1, float("inf"), float("nan"), float("-inf")])
def test_a_number_out_of_tolerance_or_not_finite_is_a_failure(measured):
    result = judged("weights", 5, "tensors", [Measurement("number", measured, 1.0)])
    assert not result.passed
    assert "number is" in result.reason


def test_a_number_without_tolerance_is_information():
    assert judged("weights", 5, "tensors", [Measurement("number", float("inf"))]).passed


def test_an_error_is_a_failure_and_a_warning_is_not():
    error, warning = (Finding(severity, "blk.0", "this", "that") for severity in ("error", "warning"))
    assert judged("weights", 5, "tensors", findings=[warning]).passed
    assert not judged("weights", 5, "tensors", findings=[warning, error]).passed


def test_a_fault_keeps_its_kind():
    result = faulted("greedy", RuntimeFault("timed out", "no answer"))
    assert (result.status, result.fault, result.reason) == ("fail", "timed out", "timed out: no answer")


def test_the_report_is_json_even_when_numbers_are_not():
    broken = judged("weights", 1, "tensors", [Measurement("number", float("nan"), 1.0)])
    verdict = Verdict("m", (*passing()[:2], broken, *passing()[3:]), Ledger(float("inf"), 0.0), None, {"a": 1})
    report = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert report["conforms"] is False
    assert report["rungs"][2]["measurements"][0]["measured"] == "nan"


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        passing()[0].status = "pass"
