"""The reference against itself under changes that must not matter, and against arithmetic written out."""

import dataclasses

import numpy as np
import pytest
import torch

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import GGUFError
from conform.core.verify.verify import open_gguf
from conform.parity.reference.dimensions import dimensions_of_file, dimensions_of_model
from conform.parity.reference.model import Reference
from conform.parity.reference.weights import CheckpointWeights, FileWeights

IDS = (1, 40, 77, 300, 12, 12, 9)


@pytest.fixture
def over_file(make_gguf, registry):
    def make(contract, quant):
        file = open_gguf(make_gguf(contract, quant), registry)
        return Reference(dimensions_of_file(file), FileWeights(file, registry))

    return make


@pytest.fixture
def over_checkpoint(make_checkpoint):
    def make(contract):
        weights = CheckpointWeights(open_checkpoint(make_checkpoint(contract)), contract)
        return Reference(dimensions_of_model(contract.model), weights)

    return make


@pytest.mark.parametrize("name", ["micro", "micro_bitnet"])
def test_checkpoint_and_file_are_one_model(request, over_file, over_checkpoint, name):
    """Half-split rotary rows of the checkpoint, interleaved ones of the file: the same function."""
    contract = request.getfixturevalue(name)
    quant = "f32" if name == "micro" else "i2_s"
    file = over_file(contract, quant).hidden([IDS])[0]
    checkpoint = over_checkpoint(contract).hidden([IDS])[0]
    # The embedding is stored as f16, so that the two are near, not equal.
    assert np.abs(file - checkpoint).max() < (5e-3 if name == "micro" else 0.3)


def test_a_position_does_not_see_those_behind_it(over_file, micro):
    model = over_file(micro, "f32")
    whole, part = model.hidden([IDS])[0], model.hidden([IDS[:4]])[0]
    np.testing.assert_allclose(whole[:4], part, atol=1e-6)


def test_sequences_do_not_see_each_other(over_file, micro):
    model = over_file(micro, "f32")
    together = model.hidden([IDS, (1, 2, 3), IDS[::-1]])
    np.testing.assert_allclose(together[0], model.hidden([IDS])[0], atol=1e-6)
    np.testing.assert_allclose(together[1], model.hidden([(1, 2, 3)])[0], atol=1e-6)


def test_order_matters(over_file, micro):
    model = over_file(micro, "f32")
    forward, backward = model.hidden([(1, 5, 6, 7)])[0], model.hidden([(1, 6, 5, 7)])[0]
    assert np.abs(forward[-1] - backward[-1]).max() > 0.01


def test_many_queries_are_cut_into_blocks_without_a_seam(over_file, micro, monkeypatch):
    model = over_file(micro, "f32")
    whole = model.hidden([IDS])[0]
    monkeypatch.setattr("conform.parity.reference.model._QUERIES", 2)
    np.testing.assert_allclose(model.hidden([IDS])[0], whole, atol=1e-6)


def test_single_arithmetic_is_near_and_not_equal(over_file, micro):
    model = over_file(micro, "f32")
    double, single = model.hidden([IDS])[0], dataclasses.replace(model, arithmetic="single").hidden([IDS])[0]
    assert 0 < np.abs(double - single).max() < 1e-3


def test_nothing_to_run_is_nothing(over_file, micro):
    assert over_file(micro, "f32").hidden([]) == []


def test_every_vector_is_shown_once_per_layer(over_file, micro):
    seen = {}
    over_file(micro, "f32").hidden([IDS], lambda layer, name, values: seen.setdefault((layer, name), values))
    assert seen[1, "Qcur"].shape == (len(IDS), 384)
    assert seen[0, "attn_softmax_h5"].shape == (len(IDS), len(IDS))
    assert torch.allclose(seen[0, "attn_softmax_h5"].sum(dim=1), torch.ones(len(IDS)), atol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "gpt2", "has no reference"),
        ("llama.attention.head_count", 5, "do not divide"),
        ("llama.attention.head_count", 0, "at least 1"),
        ("llama.attention.head_count", "six", "whole number"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "positive number"),
        ("llama.rope.scaling.type", "yarn", "rope.scaling.factor is missing"),
        ("llama.rope.scaling.factor", 2.0, "rope scaling"),
        ("llama.block_count", None, "is missing"),
        ("llama.context_length", None, "is missing"),
    ],
)
def test_what_the_reference_cannot_run_is_refused_by_key(make_gguf, registry, micro, key, value, message):
    file = open_gguf(make_gguf(micro, "f32"), registry)
    metadata = {k: v for k, v in file.metadata.items() if k != key} | ({} if value is None else {key: value})
    with pytest.raises(GGUFError, match=message):
        dimensions_of_file(dataclasses.replace(file, metadata=metadata))


def test_the_file_says_what_the_contract_says(make_gguf, registry, micro):
    file = open_gguf(make_gguf(micro, "f32"), registry)
    ours = dataclasses.replace(dimensions_of_model(micro.model), rope_pairing="adjacent")
    theirs = dimensions_of_file(file)
    assert dataclasses.replace(theirs, norm_eps=ours.norm_eps) == ours
    assert theirs.norm_eps == pytest.approx(ours.norm_eps)
