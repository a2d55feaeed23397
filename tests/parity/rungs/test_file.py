import pytest

from conform.contract.finding import Finding
from conform.parity.rungs.file import CheckedFile, judge_file

WRONG = Finding("error", "blk.0.attn_q.weight", "this tensor", "none")


def checked(entries=12, violations=(), keys=None, origin=None):
    return CheckedFile(entries, violations, keys or {}, origin or {})


def test_a_file_without_violations_passes():
    result = judge_file(checked())
    assert result.passed
    assert (result.compared, result.unit) == (12, "tensors and keys")


def test_a_violation_fails_and_a_warning_does_not():
    assert not judge_file(checked(violations=[WRONG])).passed
    assert judge_file(checked(violations=[Finding("warning", "general.name", "a name", "none")])).passed


@pytest.mark.parametrize("key", ["conform.checkpoint.digest", "conform.contract.digest", "conform.tokenizer.digest"])
def test_a_file_from_elsewhere_fails(key):
    result = judge_file(checked(keys={key: "theirs"}, origin={key: "ours"}))
    assert not result.passed
    assert (result.findings[0].where, result.findings[0].expected, result.findings[0].found) == (key, "ours", "theirs")


def test_a_file_that_does_not_say_where_it_comes_from_passes():
    assert judge_file(checked(origin={"conform.contract.digest": "ours"})).passed


def test_an_empty_file_is_not_a_pass():
    result = judge_file(checked(entries=0))
    assert not result.passed
    assert result.reason == "nothing was compared"
