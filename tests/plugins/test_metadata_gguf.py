import dataclasses
import math

import pytest

from conform.contract.load import load_contract
from conform.contract.spec import RopeScaling
from conform.core.gguf.types import ValueType
from conform.core.metadata import ExportFacts
from conform.core.quantizer import Layout
from conform.core.tokenizer.vocabulary import Vocabulary
from conform.plugins.metadata_gguf import GGUFMetadata

VOCABULARY = Vocabulary(
    pieces=("<unk>", "<s>", "</s>", "▁the"),
    scores=(0.0, 0.0, 0.0, -1.5),
    types=(2, 3, 3, 1),
    model="bpe",
    unk_id=0,
    bos_id=1,
    eos_id=2,
    pad_id=-1,
    byte_fallback=True,
    normalization="identity",
    add_dummy_prefix=True,
    remove_extra_whitespaces=False,
    escape_whitespaces=True,
    digest="d" * 64,
)


F16 = Layout(1, 1)


def keys(contract="nano", layouts=(F16,), **changes):
    facts = ExportFacts(
        contract=load_contract(contract) if isinstance(contract, str) else contract,
        vocabulary=dataclasses.replace(VOCABULARY, **changes),
        checkpoint_digest="c" * 64,
        alignment=32,
        linear_layouts=tuple(layouts),
        quantizers=("f16", "f32"),
        plugins=("gguf-conform 0.1.0",),
    )
    return GGUFMetadata().keys(facts)


def plain(found):
    return {key: value.value for key, value in found.items()}


@pytest.mark.parametrize(("contract", "prefix"), [("nano", "llama"), ("nano+bitnet", "bitnet-b1.58")])
def test_the_architecture_names_its_keys(contract, prefix):
    model = load_contract(contract).model
    found = keys(contract)
    assert found["general.architecture"].value == prefix
    expected = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "feed_forward_length": model.ffn,
        "vocab_size": model.vocab,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "attention.key_length": model.head_dim,
        "attention.value_length": model.head_dim,
        "rope.dimension_count": model.rope_dim,
    }
    for key, value in expected.items():
        assert (found[f"{prefix}.{key}"].kind, found[f"{prefix}.{key}"].value) == (ValueType.UINT32, value)
    assert found[f"{prefix}.rope.freq_base"].value == 10000.0
    assert found[f"{prefix}.attention.layer_norm_rms_epsilon"].value == 1e-5


def scaling_keys(scaling, architecture="llama"):
    nano = load_contract("nano")
    model = dataclasses.replace(nano.model, architecture=architecture, rope_scaling=scaling)
    found = keys(dataclasses.replace(nano, model=model))
    prefix = f"{architecture}.rope.scaling."
    return {key.removeprefix(prefix): value.value for key, value in found.items() if key.startswith(prefix)}


def test_without_scaling_no_key_speaks_of_it():
    assert scaling_keys(None) == {}


def test_linear_scaling_is_a_type_and_a_factor():
    assert scaling_keys(RopeScaling("linear", 2.5), "bitnet-b1.58") == {"type": "linear", "factor": 2.5}


def test_the_scaling_of_llama_3_is_a_tensor_and_no_key():
    assert scaling_keys(RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)) == {}


def test_yarn_states_its_magnitude_over_that_which_a_runtime_computes():
    scaling = RopeScaling("yarn", math.e**2, 64, beta_fast=32.0, beta_slow=1.0, attention_factor=1.5)
    found = scaling_keys(scaling)
    assert found.pop("factor") == pytest.approx(math.e**2)
    assert found.pop("attn_factor") == pytest.approx(1.5 / 1.2)
    bounds = {"yarn_beta_fast": 32.0, "yarn_beta_slow": 1.0}
    assert found == {"type": "yarn", "original_context_length": 64, **bounds}


def test_the_tokenizer_is_complete():
    found = plain(keys())
    assert found["tokenizer.ggml.model"] == "llama"
    assert found["tokenizer.ggml.tokens"] == VOCABULARY.pieces
    assert found["tokenizer.ggml.scores"] == VOCABULARY.scores
    assert found["tokenizer.ggml.token_type"] == VOCABULARY.types
    assert found["tokenizer.ggml.bos_token_id"] == 1
    assert found["tokenizer.ggml.eos_token_id"] == 2
    assert found["tokenizer.ggml.unknown_token_id"] == 0
    assert found["tokenizer.ggml.add_bos_token"] is True
    assert found["tokenizer.ggml.add_space_prefix"] is True
    assert "tokenizer.ggml.padding_token_id" not in found
    assert plain(keys(pad_id=3))["tokenizer.ggml.padding_token_id"] == 3


@pytest.mark.parametrize(
    ("layouts", "file_type"),
    [
        ((Layout(0, 1),), 0),
        ((Layout(1, 1),), 1),
        ((Layout(8, 32),), 7),
        ((Layout(30, 1),), 32),
        ((Layout(36, 128),), 40),
        ((Layout(21, 256),), 26),
        ((Layout(1, 1), Layout(8, 32)), None),
        ((Layout(9000, 7),), None),
    ],
)
def test_the_file_type_is_stated_only_where_one_type_is_meant(layouts, file_type):
    assert plain(keys(layouts=layouts)).get("general.file_type") == file_type


def test_provenance_binds_the_file_to_its_sources():
    contract = load_contract("nano")
    found = plain(keys())
    assert found["conform.contract.digest"] == contract.digest
    assert found["conform.contract"] == contract.canonical()
    assert found["conform.checkpoint.digest"] == "c" * 64
    assert found["conform.tokenizer.digest"] == "d" * 64
    assert found["conform.plugins"] == ("gguf-conform 0.1.0",)
    assert found["conform.quantizers"] == ("f16", "f32")


@pytest.mark.parametrize(("variant", "name"), [("", "x86"), ("arm", "arm"), ("rows", "rows")])
def test_an_i2_s_file_tells_its_byte_layout(variant, name):
    assert plain(keys(layouts=[Layout(36, 128, variant)]))["conform.i2_s.layout"] == name
    assert "conform.i2_s.layout" not in keys()


def test_the_same_facts_give_the_same_keys_in_the_same_order():
    assert list(keys().items()) == list(keys().items())
