import dataclasses
import math

import pytest

from conform.contract.inventory import gguf_inventory, inventory
from conform.contract.load import load_contract, shipped_contracts
from conform.contract.spec import RopeScaling


@pytest.mark.parametrize("name", [*shipped_contracts(), "nano+bitnet"])
def test_the_inventory_holds_exactly_the_parameters(name):
    model = load_contract(name).model
    assert sum(math.prod(spec.shape) for spec in inventory(model)) == model.parameters


def test_names_are_unique():
    specs = inventory(load_contract("nano+bitnet").model)
    assert len({spec.name for spec in specs}) == len({spec.gguf_name for spec in specs}) == len(specs)


def test_the_scaling_of_llama_3_is_one_more_tensor_of_a_file_and_no_other_is():
    def more(scaling):
        model = dataclasses.replace(load_contract("nano").model, rope_scaling=scaling)
        specs = gguf_inventory(model)
        assert specs[len(specs) - len(inventory(model)) :] == inventory(model)
        return [(spec.gguf_name, spec.shape, spec.derived) for spec in specs[: len(specs) - len(inventory(model))]]

    pairs = load_contract("nano").model.rope_dim // 2
    llama3 = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
    assert more(llama3) == [("rope_freqs.weight", (pairs,), True)]
    assert more(None) == more(RopeScaling("linear", 2.0)) == []


def test_a_tied_model_has_no_output_tensor():
    assert "output.weight" not in {spec.gguf_name for spec in inventory(load_contract("nano").model)}


def test_sub_norms_have_the_width_of_what_they_normalise():
    model = load_contract("nano+bitnet").model
    shapes = {spec.gguf_name: spec.shape for spec in inventory(model)}
    assert shapes["blk.0.attn_sub_norm.weight"] == (model.q_width,)
    assert shapes["blk.0.ffn_sub_norm.weight"] == (model.ffn,)


def test_only_vectors_are_norms():
    assert all((len(s.shape) == 1) == (s.storage_class == "norm") for s in inventory(load_contract("nano").model))
