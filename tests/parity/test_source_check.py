"""Every misreading of a checkpoint is caught by the rung source alone."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from conform.contract.infer import infer_contract
from conform.contract.spec import RopeScaling
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.parity import source_check
from conform.parity.candidate import Source
from conform.parity.errors import ForeignError
from conform.parity.questions.tokenizer import open_tokenizer
from conform.parity.reference.foreign_program import compute
from conform.parity.rungs.source import UncheckedSource, judge_source
from conform.parity.source_check import check_source, compare_sources, source_sequences

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
ROPE = {"rope_type": "default", "rope_theta": 500000.0}
ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}


def write(folder, family, **settings):
    """A checkpoint of random weights, with norms that are not 1, as transformers writes it."""
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(**SIZES, **settings)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    for name, values in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(values, 0.5, 1.5)
    model.save_pretrained(folder)
    return folder


def edit(folder, **keys):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return folder


def contract_of(folder, **changes):
    """The contract that is meant, with these fields of the model changed."""
    contract = infer_contract(json.loads((folder / "config.json").read_text()), "stranger").contract
    return dataclasses.replace(contract, model=dataclasses.replace(contract.model, **changes))


@pytest.fixture(scope="module", autouse=True)
def not_compiled():
    """What ternarises would be compiled first, for half a minute; conform itself switches that off as well."""
    with torch._dynamo.config.patch(disable=True):
        yield


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    return write(tmp_path_factory.mktemp("llama"), "Llama", rms_norm_eps=1e-5, rope_parameters=ROPE)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    rope = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}
    return write(tmp_path_factory.mktemp("linear"), "Llama", rope_parameters=rope)


@pytest.fixture(scope="module")
def llama3(tmp_path_factory):
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, **bounds}
    return write(tmp_path_factory.mktemp("llama3"), "Llama", rope_parameters=rope)


@pytest.fixture(scope="module")
def yarn(tmp_path_factory):
    rope = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
    return write(tmp_path_factory.mktemp("yarn"), "Llama", rope_parameters=rope)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return write(tmp_path_factory.mktemp("tied"), "Llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def ternary(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("ternary"), "Llama")
    return edit(folder, quantization_config={**ONLINE, "modules_to_not_convert": ["lm_head"]})


@pytest.fixture(scope="module")
def bitnet(tmp_path_factory):
    folder = write(
        tmp_path_factory.mktemp("bitnet"), "BitNet", tie_word_embeddings=True, bos_token_id=1, eos_token_id=2
    )
    return edit(folder, quantization_config={**ONLINE, "modules_to_not_convert": ["lm_head"]})


@pytest.fixture(scope="module")
def judged_as(request, tokenizer_model):
    """judged_as(name, **changes): the rung on that checkpoint, read by its contract with these changes."""
    foreign = {}

    def judge(name, reading=lambda checkpoint: checkpoint, **changes):
        folder = request.getfixturevalue(name)
        contract = contract_of(folder, **changes)
        source = Source(reading(open_checkpoint(folder)), contract)
        tokenizer = open_tokenizer(tokenizer_model, contract.tokenizer)
        sequences = source_sequences(source, tokenizer, 128)
        if name not in foreign:
            _, rows = compute(folder, [sequence.ids for sequence in sequences])
            foreign[name] = np.split(rows, np.cumsum([len(sequence.ids) for sequence in sequences])[:-1])
        return judge_source(compare_sources(source, sequences, foreign[name], "transformers"))

    return judge


@pytest.mark.parametrize("name", ["dense", "linear", "llama3", "yarn", "tied", "ternary", "bitnet"])
def test_what_is_read_as_it_is_meant_passes(judged_as, name):
    result = judged_as(name)
    assert result.passed, result.reason
    assert result.compared == 128 + 2 * 32


class Misread:
    """A checkpoint whose tensors are changed as they are read."""

    def __init__(self, checkpoint, change):
        self._checkpoint = checkpoint
        self._change = change

    def read(self, name):
        return self._change(name, self._checkpoint.read(name))


def swapped_kv_heads(checkpoint):
    """The kv heads dealt out to the query heads in another order."""

    def change(name, values):
        return np.roll(values, 32, axis=0) if "k_proj" in name or "v_proj" in name else values

    return Misread(checkpoint, change)


def unscaled_embedding(checkpoint):
    return Misread(checkpoint, lambda name, values: values * 1.01 if "embed" in name else values)


@pytest.mark.parametrize(
    ("name", "misreading"),
    [
        ("dense", {"rope_base": 10000.0}),
        ("dense", {"norm_eps": 1e-6}),
        ("tied", {"architecture": "bitnet-b1.58"}),
        ("dense", {"linear": "ternary"}),
        ("dense", {"tied_embeddings": True}),
        ("dense", {"rope_dim": 16}),
        ("dense", {"reading": swapped_kv_heads}),
        ("linear", {"rope_scaling": None}),
        ("llama3", {"rope_scaling": None}),
        ("llama3", {"rope_scaling": RopeScaling("linear", 8.0)}),
        ("yarn", {"rope_scaling": None}),
        ("tied", {"reading": unscaled_embedding}),
        ("ternary", {"linear": "dense"}),
        ("ternary", {"rope_base": 500000.0}),
        ("bitnet", {"linear": "dense"}),
        ("bitnet", {"sub_norms": False}),
        ("bitnet", {"architecture": "llama"}),
    ],
)
def test_a_misreading_is_caught(judged_as, name, misreading):
    result = judged_as(name, **misreading)
    assert result.status == "fail"
    assert "NMSE of logits, three positions in four is" in result.reason


def test_another_vocabulary_is_one_sentence(dense):
    source = Source(open_checkpoint(dense), contract_of(dense, vocab=500))
    sequences = source_sequences(source, None, 8)
    with pytest.raises(ForeignError, match=r"logits of \[512\] tokens, but the contract says 500"):
        compare_sources(source, sequences, [np.zeros((8, 512), np.float32)] * 2, "other")


def test_the_sequences_fit_the_context_and_are_the_same_every_time(dense, tokenizer_model):
    source = Source(open_checkpoint(dense), contract_of(dense, context=20))
    tokenizer = open_tokenizer(tokenizer_model, source.contract.tokenizer)
    sequences = source_sequences(source, tokenizer, 128)
    assert [(sequence.name, len(sequence.ids)) for sequence in sequences] == [
        ("prose", 20),
        ("random ids 1", 20),
        ("random ids 2", 20),
    ]
    assert sequences == source_sequences(source, tokenizer, 128)


def test_without_the_library_nothing_is_tried(dense, monkeypatch):
    monkeypatch.setattr(source_check, "library_is_installed", lambda: False)
    source = Source(open_checkpoint(dense), contract_of(dense))
    check = check_source(source, source_sequences(source, None, 8))
    assert check.seen == UncheckedSource("transformers is not installed: pip install 'gguf-conform[hf]'", tried=False)
