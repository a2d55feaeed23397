import dataclasses

import pytest

from conform.contract.spec import RopeScaling
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.export.plan import check_export
from conform.core.export.rope import check_rope
from conform.core.tokenizer.tokenizer import read_vocabulary

LINEAR = RopeScaling("linear", 2.5)
LLAMA3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
YARN = RopeScaling("yarn", 4.0, 64, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5)


def found(contract, scaling, **changes):
    findings = check_rope(dataclasses.replace(contract.model, rope_scaling=scaling, **changes))
    return [(finding.where.removeprefix("model.rope_scaling."), finding.found) for finding in findings]


@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3, YARN], ids=["none", "linear", "llama3", "yarn"])
def test_what_runtimes_compute_as_the_contract_says_has_no_finding(micro, scaling):
    assert found(micro, scaling) == []


def test_bitnet_cannot_be_scaled_as_llama_3_is(micro):
    assert found(micro, LLAMA3, architecture="bitnet-b1.58") == [("kind", "llama3")]
    assert found(micro, YARN, architecture="bitnet-b1.58") == []


def test_the_bounds_of_yarn_are_those_that_runtimes_have(micro):
    assert found(micro, dataclasses.replace(YARN, beta_fast=16.0, beta_slow=2.0)) == [
        ("beta_fast", "16"),
        ("beta_slow", "2"),
    ]


def test_yarn_from_a_context_in_which_nothing_turns_is_two_things(micro):
    assert found(micro, dataclasses.replace(YARN, original_context=2)) == [("original_context", "2")]


def test_an_export_asks(checkpoint, micro):
    """The checkpoint's tensors fit; the contract's scaling cannot be said in a file."""
    scaling = dataclasses.replace(YARN, beta_fast=16.0)
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, rope_scaling=scaling))
    opened = open_checkpoint(checkpoint)
    findings = check_export(opened, contract, read_vocabulary(opened.tokenizer_path))
    assert [finding.where for finding in findings] == ["model.rope_scaling.beta_fast"]
