import os

import pytest

from conform.core.files.cores import usable_cores


@pytest.mark.parametrize(
    ("missing", "expected"), [((), 3), (("process_cpu_count",), 2), (("process_cpu_count", "sched_getaffinity"), 8)]
)
def test_the_most_precise_count_that_there_is(monkeypatch, missing, expected):
    answers = {"process_cpu_count": lambda: 3, "sched_getaffinity": lambda _: {0, 1}, "cpu_count": lambda: 8}
    for name, answer in answers.items():
        monkeypatch.setattr(os, name, answer, raising=False)
    for name in missing:
        monkeypatch.delattr(os, name)
    assert usable_cores() == expected


def test_an_unknown_count_is_one(monkeypatch):
    monkeypatch.setattr(os, "process_cpu_count", lambda: None, raising=False)
    assert usable_cores() == 1
