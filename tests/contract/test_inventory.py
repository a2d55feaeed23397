import math

import pytest

from conform.contract.inventory import inventory
from conform.contract.load import load_contract, shipped_contracts


@pytest.mark.parametrize("name", [*shipped_contracts(), "nano+bitnet"])
def test_the_inventory_holds_exactly_the_parameters(name):
    model = load_contract(name).model
    assert sum(math.prod(spec.shape) for spec in inventory(model)) == model.parameters


def test_names_are_unique():
    specs = inventory(load_contract("nano+bitnet").model)
    assert len({spec.name for spec in specs}) == len({spec.gguf_name for spec in specs}) == len(specs)


def test_a_tied_model_has_no_output_tensor():
    assert "output.weight" not in {spec.gguf_name for spec in inventory(load_contract("nano").model)}


def test_sub_norms_have_the_width_of_what_they_normalise():
    model = load_contract("nano+bitnet").model
    shapes = {spec.gguf_name: spec.shape for spec in inventory(model)}
    assert shapes["blk.0.attn_sub_norm.weight"] == (model.q_width,)
    assert shapes["blk.0.ffn_sub_norm.weight"] == (model.ffn,)


def test_only_vectors_are_norms():
    assert all((len(s.shape) == 1) == (s.storage_class == "norm") for s in inventory(load_contract("nano").model))
