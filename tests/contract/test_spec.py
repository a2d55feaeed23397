import dataclasses
import re

import pytest

from conform.contract.dump import dump_contract
from conform.contract.errors import ContractError, InputError
from conform.contract.load import load_contract, shipped_contracts
from conform.contract.spec import Contract, RopeScaling

# Frozen: a contract is replaced by a new version under a new name, never edited.
DIGESTS = {
    "base-1.5b": "645f0ce15b51dcfe91e7d30824595cc80e4bb7202285e55f91929a6a3e60bc43",
    "exact-1.5b": "011c4bca0dfb07777f3f7e3412c15c9afd37dc854d4b3050126d351a5d2fb509",
    "medium": "2789cb7ed334d66b0b7c14a27bfcf305b955c44f6cccc69c03d7f1a0fa889bcc",
    "nano": "5c80fceb735942c166f9f51bcc3f5e039bec7d56b22c28200dcc4d4f1fecc598",
    "tiny": "5e28d4ab5ad6345a877070969b3345120b98f082a5d1c333021dc7e538c7ab0c",
}
PARAMETERS = {
    "base-1.5b": 1_525_254_144,
    "exact-1.5b": 1_500_088_320,
    "medium": 221_537_280,
    "nano": 7_997_952,
    "tiny": 16_060_672,
}


def test_every_shipped_contract_has_a_pinned_digest():
    assert {name: load_contract(name).digest for name in shipped_contracts()} == DIGESTS


def test_every_shipped_contract_has_a_pinned_size():
    assert {name: load_contract(name).model.parameters for name in shipped_contracts()} == PARAMETERS


def test_the_digest_covers_every_field_of_the_model():
    contract = load_contract("nano")
    changed = {"layers": 3, "rope_base": 10001.0, "linear": "ternary", "tied_embeddings": False, "norm_eps": 1e-6}
    for field, value in changed.items():
        model = dataclasses.replace(contract.model, **{field: value})
        assert dataclasses.replace(contract, model=model).digest != contract.digest, field


def test_the_digest_does_not_cover_name_and_reasons():
    contract = load_contract("nano")
    assert dataclasses.replace(contract, name="other", why="for a test").digest == contract.digest


@pytest.mark.parametrize("name", ["nano", "nano+ternary", "nano+bitnet", "base-1.5b"])
def test_row_lengths_fit_every_quantisation(name):
    model = load_contract(name).model
    assert all(width % 256 == 0 for width in (model.hidden, model.q_width, model.ffn))


def test_nano_is_awkward():
    model = load_contract("nano").model
    assert model.heads // model.kv_heads != model.kv_heads
    assert model.q_width != model.hidden


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("layers", 0, "layers = 0"),
        ("layers", 10_001, "layers = 10001: expected at most 10000"),
        ("head_dim", 65_538, "head_dim = 65538: expected at most 65536"),
        ("vocab", 2**31, "vocab"),
        ("kv_heads", 3, "divisor of heads = 8"),
        ("rope_dim", 31, "even number"),
        ("rope_dim", 64, "up to head_dim = 32"),
        ("norm_eps", 0.0, "norm_eps"),
        ("rope_base", float("inf"), "finite"),
        ("architecture", "gpt2", "architecture"),
    ],
)
def test_a_contradiction_names_its_field(field, value, message):
    with pytest.raises(ContractError, match=message):
        dataclasses.replace(load_contract("nano").model, **{field: value})


def test_bitnet_ties_its_output():
    with pytest.raises(ContractError, match="tied_embeddings"):
        dataclasses.replace(load_contract("nano+bitnet").model, tied_embeddings=False)


@pytest.mark.parametrize("name", [*shipped_contracts(), "nano+bitnet"])
def test_the_canonical_form_reads_back(name):
    contract = dataclasses.replace(load_contract(name), why="")
    assert Contract.from_canonical(contract.canonical(), contract.name, "here") == contract


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[1:], "not the canonical form of a contract"),
        (lambda text: "[]", "not the canonical form of a contract"),
        (lambda text: "[" * 100_000, "not the canonical form of a contract"),
        (lambda text: text.replace('"0x1.3880000000000p+13"', '"0x1p+99999"'), "not the canonical form of a contract"),
        (lambda text: text.replace('"0x1.3880000000000p+13"', '"ten"'), "not the canonical form of a contract"),
        (lambda text: text.replace('"0x1.3880000000000p+13"', "10000.0"), "not in canonical form"),
        (lambda text: text.replace('"layers":2', '"layers":2.0'), "model.layers = 2.0"),
        (lambda text: text.replace('"layers":2', '"layers":0'), "model.layers = 0"),
        (lambda text: text.replace("{", '{"name":"x",', 1), "not in canonical form"),
        (lambda text: text.replace(",", ", "), "not in canonical form"),
        (lambda text: "{}", "missing model"),
    ],
)
def test_anything_but_the_canonical_form_is_refused(change, message):
    text = load_contract("nano").canonical()
    assert change(text) != text
    with pytest.raises(InputError, match=f"^here: {message}"):
        Contract.from_canonical(change(text), "x", "here")


SCALINGS = [
    {"kind": "linear", "factor": 4.0},
    {
        "kind": "llama3",
        "factor": 8.0,
        "original_context": 256,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    },
    {
        "kind": "yarn",
        "factor": 4.0,
        "original_context": 256,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": 1.1386294361119891,
    },
]


def scaled(**scaling):
    nano = load_contract("nano")
    return dataclasses.replace(nano, model=dataclasses.replace(nano.model, rope_scaling=RopeScaling(**scaling)))


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda scaling: scaling["kind"])
def test_a_scaling_counts_in_the_digest_and_reads_back(scaling, tmp_path):
    contract = scaled(**scaling)
    assert contract.digest != load_contract("nano").digest
    assert Contract.from_canonical(contract.canonical(), "nano", "x").model == contract.model
    (tmp_path / "scaled.toml").write_text(dump_contract(contract))
    assert load_contract(str(tmp_path / "scaled.toml")) == contract


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"kind": "dynamic", "factor": 2.0}, "rope_scaling.kind"),
        ({"kind": "linear", "factor": 0.0}, "rope_scaling.factor = 0.0"),
        ({"kind": "linear", "factor": 2.0, "beta_fast": 32.0}, "rope_scaling.beta_fast = 32.0: expected no such key"),
        (SCALINGS[1] | {"original_context": None}, "rope_scaling.original_context is missing"),
        (SCALINGS[1] | {"low_freq_factor": 4.0}, "low_freq_factor = 4.0: expected a number below high_freq_factor"),
        (SCALINGS[2] | {"beta_slow": 64.0}, "beta_slow = 64.0: expected a number below beta_fast"),
    ],
)
def test_a_scaling_has_exactly_the_parameters_of_its_kind(scaling, message):
    with pytest.raises(ContractError, match=re.escape(message)):
        RopeScaling(**scaling)


def test_only_a_byte_level_tokenizer_names_a_pre_tokenizer():
    recipe = load_contract("nano").tokenizer
    with pytest.raises(ContractError, match=r"tokenizer\.pre"):
        dataclasses.replace(recipe, pre="llama-bpe")
    with pytest.raises(ContractError, match=r"tokenizer\.pre"):
        dataclasses.replace(recipe, model="byte-level")
    assert dataclasses.replace(recipe, model="byte-level", pre="llama-bpe").pre == "llama-bpe"
