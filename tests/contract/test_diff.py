import dataclasses

from conform.contract.diff import Difference, diff
from conform.contract.load import load_contract
from conform.contract.spec import RopeScaling

NANO = load_contract("nano")


def changed(**changes):
    return dataclasses.replace(NANO, model=dataclasses.replace(NANO.model, **changes))


def test_equal_contracts_do_not_differ():
    assert diff(NANO, NANO) == []


def test_a_field_that_differs_is_named_as_in_the_spec_file():
    assert diff(NANO, changed(rope_base=5e5)) == [Difference("model.rope_base", "10000.0", "500000.0")]


def test_a_scaling_is_compared_by_its_fields():
    twice, four_times = (changed(rope_scaling=RopeScaling("linear", factor)) for factor in (2.0, 4.0))
    assert diff(twice, four_times) == [Difference("model.rope_scaling.factor", "2.0", "4.0")]
    assert diff(NANO, twice) == [
        Difference("model.rope_scaling.kind", "None", "linear"),
        Difference("model.rope_scaling.factor", "None", "2.0"),
    ]
    assert [(d.key, d.right) for d in diff(twice, NANO)] == [
        ("model.rope_scaling.kind", "None"),
        ("model.rope_scaling.factor", "None"),
    ]
