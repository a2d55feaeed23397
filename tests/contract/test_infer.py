import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.contract.errors import InputError
from conform.contract.huggingface.family import read_families
from conform.contract.infer import SENTENCEPIECE_BPE, Inference, infer_contract
from conform.contract.load import load_contract, shipped_contracts
from conform.contract.spec import RopeScaling
from conform.trainer.checkpoints.huggingface import huggingface_config

TRANSFORMERS = json.loads((Path(__file__).parent / "rope_of_transformers.json").read_text())
LLAMA = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_a_llama_config_gives_its_parameters():
    model = infer_contract(LLAMA, "tinyllama").contract.model
    assert model.parameters == 1_100_048_384
    assert (model.head_dim, model.rope_base, model.dtype) == (64, 10000.0, "bf16")


def test_newer_configs_keep_rope_elsewhere():
    config = LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}
    assert infer_contract(config, "x").contract.model.rope_base == 500000.0


def test_bitnet_has_sub_norms_and_ternary_linears():
    config = LLAMA | {"model_type": "bitnet", "hidden_act": "relu2", "tie_word_embeddings": True}
    config["quantization_config"] = {
        "quant_method": "bitnet",
        "linear_class": "autobitlinear",
        "quantization_mode": "online",
    }
    model = infer_contract(config, "x").contract.model
    assert (model.architecture, model.sub_norms, model.linear) == ("bitnet-b1.58", True, "ternary")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "model_type = 'gpt2'"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu'"),
        ({"attention_bias": True}, "attention_bias"),
        ({"rope_scaling": {"type": "dynamic", "factor": 4}}, "rope_scaling.type = 'dynamic'"),
        ({"hidden_size": "2048"}, "hidden_size"),
        ({"num_attention_heads": 0}, "heads = 0"),
        ({"num_key_value_heads": 0}, "kv_heads = 0"),
        ({"head_dim": 0}, "head_dim = 0"),
        ({"rope_scaling": "linear"}, "rope_scaling = 'linear': expected a JSON object or null"),
        ({"rope_parameters": [8.0]}, "rope_parameters = .*: expected a JSON object or null"),
        ({"rope_theta": 10**400}, "rope_theta = 1000"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false'"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings = 1"),
    ],
)
def test_what_no_contract_expresses_is_named(change, message):
    with pytest.raises(InputError, match=message):
        infer_contract(LLAMA | change, "x")


@pytest.mark.parametrize("variant", ["", "+ternary", "+bitnet"])
@pytest.mark.parametrize("name", shipped_contracts())
def test_what_the_trainer_writes_describes_the_model_that_it_trained(name, variant):
    contract = load_contract(name + variant)
    if variant == "+bitnet" and not contract.model.tied_embeddings:
        pytest.skip("bitnet-b1.58 has no output of its own")
    inferred = infer_contract(huggingface_config(contract), "x")
    # The checkpoint's weights are float32, whatever the training computed in.
    assert inferred.contract.model == dataclasses.replace(contract.model, dtype="f32")
    assert inferred.stored.weights == ("bitnet-online" if variant else "plain")


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling("linear", 2.5),
        RopeScaling("llama3", 8.0, 512, low_freq_factor=1.0, high_freq_factor=4.0),
        RopeScaling("yarn", 4.0, 512, beta_fast=24.0, beta_slow=2.0, attention_factor=1.5),
    ],
    ids=lambda scaling: scaling.kind,
)
def test_what_the_trainer_writes_of_rope_scaling_is_read_back(scaling):
    nano = load_contract("nano")
    contract = dataclasses.replace(nano, model=dataclasses.replace(nano.model, rope_scaling=scaling))
    assert infer_contract(huggingface_config(contract), "x").contract.model.rope_scaling == scaling


@pytest.mark.parametrize("case", TRANSFORMERS.values(), ids=TRANSFORMERS)
def test_rope_scaling_means_what_transformers_computes_with(case):
    found = infer_contract(LLAMA | {"rope_parameters": {**case["rope"], "rope_theta": case["base"]}}, "x")
    assert found.contract.model.rope_scaling == RopeScaling(**case["scaling"])


def test_every_field_has_an_origin():
    inferred = infer_contract(LLAMA, "x")
    assert {origin.field for origin in inferred.origins} == {
        f"{section}.{field.name}"
        for section in ("model", "tokenizer", "storage")
        for field in dataclasses.fields(getattr(inferred.contract, section))
    }


def test_the_tokenizer_beside_the_checkpoint_decides_its_fields():
    tokenizer = dataclasses.replace(SENTENCEPIECE_BPE, bos_id=5, add_bos=False)
    inferred = infer_contract(LLAMA | {"bos_token_id": 1}, "x", tokenizer, {"add_bos": "tokenizer_config.json"})
    assert inferred.contract.tokenizer == tokenizer
    assert {o.field: o.source for o in inferred.origins}["tokenizer.add_bos"] == "tokenizer_config.json"
    assert [(i.key, i.why) for i in inferred.ignored] == [
        ("bos_token_id", "the tokenizer beside the checkpoint says 5, and it decides")
    ]


def test_the_summary_names_a_family_that_is_run_as_another_and_what_the_tokenizer_adds():
    tokenizer = dataclasses.replace(SENTENCEPIECE_BPE, model="byte-level", pre="llama-bpe", add_eos=True)
    summary = infer_contract(LLAMA | {"model_type": "mistral", "sliding_window": None}, "x", tokenizer).summary
    assert summary.startswith("mistral as llama, dense")
    assert "; byte-level tokenizer (llama-bpe) adding BOS and EOS; ignored nothing" in summary
    alone = dataclasses.replace(SENTENCEPIECE_BPE, add_bos=False)
    assert "; SentencePiece tokenizer adding nothing; " in infer_contract(LLAMA, "x", alone).summary


def test_the_summary_is_one_line_of_what_matters():
    scaling = {"rope_type": "linear", "factor": 4.0}
    assert infer_contract(LLAMA | {"use_cache": True, "rope_scaling": scaling}, "x").summary == (
        "llama, dense linear layers (plain); RoPE base 10000 scaled ×4 by linear; norm eps 1e-05; output of its own; "
        "SentencePiece tokenizer adding BOS; ignored use_cache"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
SCALING_KEYS = (
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "mscale",
    "mscale_all_dim",
    "truncate",
)
SCALING = st.dictionaries(
    st.sampled_from(SCALING_KEYS), st.sampled_from(["yarn", "linear", 4.0, 1e308, -20, 0, True]) | JSON
)


def read(config):
    """The inference, or the sentence that refuses the configuration."""
    try:
        return infer_contract(config, "x")
    except InputError as refusal:
        return str(refusal)


@given(st.dictionaries(st.sampled_from(sorted(read_families().understood)), JSON | SCALING, max_size=3))
def test_any_value_of_any_key_is_read_or_refused(change):
    outcome = read(LLAMA | change)
    assert isinstance(outcome, Inference) or outcome.startswith("x: config.json: ")
    assert isinstance(outcome, Inference) or len(outcome) < 1000


@given(st.sampled_from(["yarn", "linear", "llama3"]), SCALING)
def test_any_parameter_of_a_scaling_is_read_or_refused(kind, parameters):
    outcome = read(LLAMA | {"rope_scaling": {"factor": 4.0, **parameters, "rope_type": kind}})
    assert isinstance(outcome, Inference) or outcome.startswith("x: config.json: ")
