"""The reference with scaled positions: against transformers, and what it reads from files.

The `logits` in rope_of_transformers.json are those of `LlamaForCausalLM` of transformers 5.24 in float64 (`inv_freq` in
float32, as it makes it) after the last of IDS, for the model below. Its parameters, sorted by name as
`model.named_parameters()` has them, hold sin(0.37 k² + k + i) for the k-th value of the i-th, and 1 more in the norms.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.contract.rope import rope_of_model, yarn_magnitude
from conform.contract.spec import RopeScaling
from conform.core.errors import GGUFError
from conform.core.verify.verify import open_gguf
from conform.parity.reference.dimensions import dimensions_of_file, dimensions_of_model
from conform.parity.reference.linear import Dense
from conform.parity.reference.model import Reference

CASES = json.loads((Path(__file__).parents[2] / "contract/rope_of_transformers.json").read_text())
IDS = [(7 * k * k + 3 * k) % 20 for k in range(60)]
TOLERANCE = 2e-5
MODEL = dataclasses.replace(
    load_contract("nano").model,
    layers=2,
    hidden=24,
    heads=2,
    kv_heads=1,
    head_dim=16,
    rope_dim=16,
    ffn=20,
    vocab=20,
    norm_eps=1e-5,
)
SCALINGS = {
    "linear": RopeScaling("linear", 2.5),
    "llama3": RopeScaling("llama3", 4.0, 32, low_freq_factor=0.5, high_freq_factor=3.0),
    "yarn": RopeScaling("yarn", 4.0, 512, beta_fast=32.0, beta_slow=1.0, attention_factor=yarn_magnitude(4.0)),
    "yarn of another magnitude": RopeScaling("yarn", 4.0, 64, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5),
}


@dataclass
class Sines:
    """The weights of the model above."""

    tensors: dict[str, torch.Tensor]

    def embedding(self, ids):
        return self.tensors["token_embd.weight"][ids]

    def norm(self, role, layer=None):
        return self.tensors.get(f"{role}.weight" if layer is None else f"blk.{layer}.{role}.weight")

    def linear(self, role, layer):
        return Dense(self.tensors[f"blk.{layer}.{role}.weight"])

    def output(self):
        return Dense(self.tensors["token_embd.weight"])


@pytest.fixture(scope="module")
def sines():
    tensors = {}
    for number, spec in enumerate(sorted(inventory(MODEL), key=lambda spec: spec.name)):
        k = np.arange(np.prod(spec.shape), dtype=np.float64)
        values = np.sin(k * k * 0.37 + k + number) + (len(spec.shape) == 1)
        tensors[spec.gguf_name] = torch.from_numpy(values.reshape(spec.shape).astype(np.float32))
    return Sines(tensors)


def logits(model, weights):
    reference = Reference(dimensions_of_model(model), weights)
    return reference.logits(reference.hidden([IDS])[0][-1:])[0]


@pytest.mark.parametrize("name", CASES)
def test_the_logits_are_those_of_transformers(sines, name):
    case = CASES[name]
    model = dataclasses.replace(MODEL, rope_base=case["base"], rope_scaling=RopeScaling(**case["scaling"]))
    expected = np.array([float.fromhex(value) for value in case["logits"]])
    np.testing.assert_allclose(logits(model, sines), expected, atol=TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("name", CASES)
def test_the_logits_tell_scaling_from_none_and_its_factor_from_another(sines, name):
    case = CASES[name]
    model = dataclasses.replace(MODEL, rope_base=case["base"], rope_scaling=RopeScaling(**case["scaling"]))
    other = dataclasses.replace(RopeScaling(**case["scaling"]), factor=1.5 * case["rope"]["factor"])
    expected = logits(model, sines)
    for wrong in (None, other):
        found = logits(dataclasses.replace(model, rope_scaling=wrong), sines)
        assert np.abs(found - expected).max() > 4 * TOLERANCE * np.abs(expected).max()


@pytest.fixture
def scaled(micro):
    def make(name):
        return dataclasses.replace(micro, model=dataclasses.replace(micro.model, rope_scaling=SCALINGS[name]))

    return make


@pytest.mark.parametrize("name", SCALINGS)
def test_the_file_says_what_the_contract_says(make_gguf, registry, scaled, name):
    contract = scaled(name)
    found = dimensions_of_file(open_gguf(make_gguf(contract, "f32"), registry)).rope
    expected = rope_of_model(contract.model)
    np.testing.assert_allclose(found.frequencies, expected.frequencies, rtol=1e-6)
    assert found.magnitude == pytest.approx(expected.magnitude, rel=1e-6)


SPOILED = {
    "another kind": ("rope.scaling.type", "longrope", "rope scaling 'longrope' by 4"),
    "a kind of no text": ("rope.scaling.type", 1, "expected a text"),
    "no factor": ("rope.scaling.factor", None, "rope.scaling.factor is missing"),
    "a negative factor": ("rope.scaling.factor", -1.0, "expected a positive number"),
    "an endless factor": ("rope.scaling.factor", 1e30, "at most 2147483647"),
    "other bounds": ("rope.scaling.yarn_beta_fast", 16.0, "yarn_beta_fast = 16: expected 32"),
    "a magnitude for some runtimes": ("rope.scaling.yarn_attn_factor", 1.0, "has no reference implementation"),
    "an old key": ("rope.scale_linear", 2.0, "rope.scale_linear has no reference implementation"),
    "no context": ("rope.scaling.original_context_length", 0, "at least 1"),
    "an absurd context": ("rope.scaling.original_context_length", 1, "in which no pair turns"),
    "an odd dimension": ("rope.dimension_count", 63, "an even number up to 64"),
    "a long dimension": ("rope.dimension_count", 66, "an even number up to 64"),
}


@pytest.mark.parametrize(("name", "value", "message"), SPOILED.values(), ids=SPOILED)
def test_a_scaling_that_is_not_sure_is_refused_by_name(make_gguf, registry, scaled, name, value, message):
    file = open_gguf(make_gguf(scaled("yarn"), "f32"), registry)
    key = f"llama.{name}"
    metadata = {k: v for k, v in file.metadata.items() if k != key} | ({} if value is None else {key: value})
    with pytest.raises(GGUFError, match=message):
        dimensions_of_file(dataclasses.replace(file, metadata=metadata))


def test_an_endless_head_takes_no_memory(make_gguf, registry, micro):
    file = open_gguf(make_gguf(micro, "f32"), registry)
    query = dataclasses.replace(file.tensors["blk.0.attn_q.weight"], shape=(6 << 40, 512))
    metadata = file.metadata | {"llama.rope.dimension_count": 1 << 40}
    with pytest.raises(GGUFError, match="an even number up to 65536"):
        dimensions_of_file(
            dataclasses.replace(file, metadata=metadata, tensors={**file.tensors, "blk.0.attn_q.weight": query})
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ggml_type": 1}, "of type f16"),
        ({"shape": (31,)}, r"shape \(31,\)"),
        ({"offset": 32}, "not a positive number"),
    ],
)
def test_factors_that_are_not_sure_are_refused(make_gguf, registry, scaled, changes, message):
    file = open_gguf(make_gguf(scaled("llama3"), "f32"), registry)
    tensor = dataclasses.replace(file.tensors["rope_freqs.weight"], **changes)
    with pytest.raises(GGUFError, match=message):
        dimensions_of_file(dataclasses.replace(file, tensors={**file.tensors, tensor.name: tensor}))


def test_factors_of_another_architecture_are_refused(make_gguf, registry, scaled):
    file = open_gguf(make_gguf(scaled("llama3"), "f32"), registry)
    renamed = {key.replace("llama.", "bitnet-b1.58."): value for key, value in file.metadata.items()}
    renamed["general.architecture"] = "bitnet-b1.58"
    with pytest.raises(GGUFError, match="in architecture llama alone"):
        dimensions_of_file(dataclasses.replace(file, metadata=renamed))
