import datetime
from dataclasses import replace

import pytest

from conform.contract.finding import Finding
from conform.core.errors import InputError
from conform.core.runtime import RuntimeFault
from conform.parity.expectations import Expectations, Pin, expectations_of, problems_of, read_expectations
from conform.parity.verdict import RUNGS, Measurement, Verdict, blocked, faulted, judged, not_run, waived

TODAY = datetime.date(2026, 11, 25)
NMSE = Measurement("NMSE of logits", 2e-9, 1e-6)
WRONG = Finding("error", "text of forced pieces", "' a'", "'▁a'")


def verdict(*results, model="runs/m.i2_s.gguf"):
    """A verdict in which every rung passed but for the given ones."""
    given = {result.rung: result for result in results}
    return Verdict(model, tuple(given.get(rung, judged(rung, 4, "things", [NMSE])) for rung in RUNGS))


BROKEN = judged("tokens", 9, "ids", [Measurement("texts that differ", 1, 0)], [WRONG])


def accepted(*verdicts):
    """What --write-expect writes for these, with a reason for each."""
    expected = expectations_of(verdicts, TODAY)
    return replace(expected, deviation=tuple(replace(d, reason="issue 7") for d in expected.deviation))


def test_a_rung_that_was_waived_needs_no_excuse():
    healthy = verdict(waived("source", "not required"))
    assert accepted(healthy).deviation == ()
    assert problems_of(healthy, Expectations(), TODAY) == []


def test_what_was_written_accepts_exactly_that_verdict():
    expected = accepted(verdict(BROKEN))
    assert [(d.rung, d.kind, d.place, d.expires) for d in expected.deviation] == [
        ("tokens", "measurement", "texts that differ", "2027-02-23"),
        ("tokens", "finding", "text of forced pieces", "2027-02-23"),
    ]
    assert problems_of(verdict(BROKEN), expected, TODAY) == []


@pytest.mark.parametrize(
    "other",
    [
        blocked("sampling", [BROKEN]),
        not_run("likelihood", "no checkpoint"),
        faulted("greedy", RuntimeFault("crashed", "it ended with signal 11")),
        judged("weights", 0, "tensors"),
        judged("implementation", 4, "rows", [replace(NMSE, measured=1.0)]),
        judged("file", 4, "keys", [], [replace(WRONG, where="llama.rope.freq_base")]),
    ],
    ids=lambda result: result.rung,
)
def test_any_other_deviation_is_a_problem(other):
    (problem, *_) = problems_of(verdict(BROKEN, other), accepted(verdict(BROKEN)), TODAY)
    assert problem.startswith(f"not expected: {other.rung}: ")
    assert problems_of(verdict(BROKEN, other), accepted(verdict(BROKEN, other)), TODAY) == []


def test_a_deviation_that_no_longer_shows_is_a_problem():
    problems = problems_of(verdict(), accepted(verdict(BROKEN)), TODAY)
    assert problems[1] == (
        "expected, but it no longer shows: tokens: finding text of forced pieces; take it out of the expectations"
    )


def test_a_deviation_expires_behind_its_day():
    expected, last = accepted(verdict(BROKEN)), datetime.date(2027, 2, 23)
    assert problems_of(verdict(BROKEN), expected, last) == []
    problems = problems_of(verdict(BROKEN), expected, last + datetime.timedelta(days=1))
    assert problems[0] == "accepted until 2027-02-23 only: tokens: measurement texts that differ; reason: issue 7"


def test_a_deviation_may_show_on_some_files_only():
    other = verdict(model="runs/m.f16.gguf")
    expected = accepted(verdict(BROKEN), other)
    assert {deviation.file for deviation in expected.deviation} == {"m.i2_s.gguf"}
    assert problems_of(verdict(BROKEN), expected, TODAY) == problems_of(other, expected, TODAY) == []
    assert {d.file for d in accepted(verdict(BROKEN), verdict(BROKEN, model="x.gguf")).deviation} == {"*"}


@pytest.mark.parametrize(
    ("pin", "problem"),
    [
        (Pin("implementation", "NMSE of logits", 3e-9), None),
        (
            Pin("implementation", "NMSE of logits", 1e-9),
            f"implementation: {NMSE.name} is 2e-09, pinned to at most 1e-09",
        ),
        (Pin("implementation", "KL", 1.0), "pinned, but not measured: implementation: KL"),
        (Pin("implementation", "NMSE of logits", 1e-9, file="*.f16.gguf"), None),
    ],
)
def test_a_pinned_number_may_not_get_worse(pin, problem):
    assert problems_of(verdict(), Expectations(pin=(pin,)), TODAY) == ([problem] if problem else [])


def test_a_ladder_with_a_rung_missing_is_a_problem():
    short = replace(verdict(), rungs=verdict().rungs[:-1])
    assert problems_of(short, Expectations(), TODAY) == ["not every rung is there"]


def test_a_number_that_is_not_finite_is_worse_than_any_pin():
    broken = judged("implementation", 4, "rows", [replace(NMSE, measured=float("nan"), tolerance=None)])
    assert problems_of(verdict(broken), Expectations(pin=(Pin("implementation", "NMSE of logits", 9.0),)), TODAY)


def test_the_file_reads_back(tmp_path):
    expected = replace(accepted(verdict(BROKEN)), pin=(Pin("implementation", "NMSE of logits", 3e-9),))
    (tmp_path / "expect.toml").write_text(expected.to_toml())
    assert read_expectations(tmp_path / "expect.toml") == expected


def test_a_reason_must_be_given(tmp_path):
    (tmp_path / "expect.toml").write_text(expectations_of([verdict(BROKEN)], TODAY).to_toml())
    with pytest.raises(InputError, match=r"deviation\[0\]\.reason = '': expected why the deviation is accepted"):
        read_expectations(tmp_path / "expect.toml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[deviation]]\nrung = "roof"', r"missing deviation\[0\]\.kind"),
        ('[[deviation]]\nrung="roof"\nkind="finding"\nplace=""\nreason="x"\nexpires="2027-01-01"', "rung = 'roof'"),
        ('[[deviation]]\nrung="file"\nkind="finding"\nplace=""\nreason="x"\nexpires="soon"', "expected a day"),
        ('[[deviation]]\nrung="file"\nkind="finding"\nplace=""\nreason="x"\nexpires="20270101"', "expected a day"),
        ("deviations = []", "unknown key deviations"),
    ],
)
def test_what_does_not_belong_is_named(tmp_path, text, message):
    (tmp_path / "expect.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_expectations(tmp_path / "expect.toml")
