"""Files that carry no contract: held to what their own keys say."""

import dataclasses

import pytest

from conform.core.errors import GGUFError, InputError
from conform.core.export.export import export_checkpoint
from conform.core.export.request import ExportRequest
from conform.core.gguf.read import read_gguf
from conform.core.metadata import boolean, f32, string, u32
from conform.core.verify.implied import implied_contract
from conform.core.verify.verify import verify_file


@pytest.fixture(scope="module")
def exported(tmp_path_factory, registry, micro_ternary, make_checkpoint):
    """Quantizer's name → the bytes of an export of the ternary micro model."""
    folder = make_checkpoint(tmp_path_factory.mktemp("implied") / "checkpoint", micro_ternary)
    request = ExportRequest(("f32", "f16", "q8_0", "i2_s"), contract=None)
    return {
        report.path.stem.rpartition("-")[2]: report.path.read_bytes()
        for report in export_checkpoint(folder, request, registry)
    }


@pytest.fixture
def foreign(exported, rewrite, tmp_path):
    """The path of an export without any key of conform's, and with these others changed or taken away."""

    def write(quant="f16", **changes):
        own = [key for key in read_gguf_keys(exported[quant], tmp_path) if key.startswith("conform.")]
        path = tmp_path / "theirs.gguf"
        keys = {key.replace("__", "."): value for key, value in changes.items()}
        path.write_bytes(rewrite(exported[quant], dict.fromkeys(own) | keys))
        return path

    return write


def read_gguf_keys(content, tmp_path):
    path = tmp_path / "keys.gguf"
    path.write_bytes(content)
    return list(read_gguf(path).metadata)


@pytest.mark.parametrize(("quant", "linear"), [("f16", "dense"), ("q8_0", "dense"), ("i2_s", "ternary-stored")])
def test_an_export_implies_the_model_that_it_holds(foreign, micro_ternary, quant, linear):
    found = implied_contract(read_gguf(foreign(quant)))
    expected = dataclasses.replace(micro_ternary.model, linear=linear, dtype="f32")
    assert found.model == expected
    assert dataclasses.replace(found.tokenizer, sha256="") == dataclasses.replace(micro_ternary.tokenizer, sha256="")


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0", "i2_s"])
def test_a_sound_file_is_sound_and_does_not_conform(foreign, registry, quant):
    verification = verify_file(foreign(quant), registry)
    assert verification.findings == ()
    assert (verification.implied, verification.sound, verification.conforms) == (True, True, False)


def test_keys_that_llama_cpp_can_do_without_may_be_missing(foreign, registry):
    optional = ("attention__key_length", "attention__value_length", "vocab_size", "rope__dimension_count")
    optional = (*(f"llama__{name}" for name in optional), "tokenizer__ggml__add_bos_token", "tokenizer__ggml__pre")
    assert verify_file(foreign(**dict.fromkeys(optional)), registry).findings == ()


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("llama.vocab_size", u32(399), "llama.vocab_size"),
        ("llama.attention.key_length", u32(64), "blk.0.attn_q.weight"),
        ("llama.block_count", u32(3), "blk.2.attn_norm.weight"),
        ("llama.feed_forward_length", u32(128), "blk.0.ffn_gate.weight"),
        ("llama.attention.clamp_kqv", f32(1.0), "llama.attention.clamp_kqv"),
        ("tokenizer.ggml.bos_token_id", u32(4000), "tokenizer.ggml.bos_token_id"),
    ],
)
def test_a_file_that_contradicts_itself_is_not_sound(foreign, registry, key, value, where):
    verification = verify_file(foreign(**{key: value}), registry)
    assert not verification.sound
    assert where in {finding.where for finding in verification.findings}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", string("gpt2"), "architecture 'gpt2': a contract can express llama"),
        ("llama.attention.head_count", None, r"llama\.attention\.head_count is missing"),
        ("llama.attention.layer_norm_rms_epsilon", None, "layer_norm_rms_epsilon is missing"),
        ("tokenizer.ggml.model", string("t5"), "tokenizer.ggml.model = 't5': a contract can express llama, gpt2"),
        ("tokenizer.ggml.add_bos_token", u32(1), "tokenizer.add_bos = 1"),
        ("llama.rope.scaling.type", string("longrope"), "rope scaling 'longrope'"),
        ("conform.layout", boolean(True), "carries no contract"),
    ],
)
def test_what_no_contract_can_express_is_one_sentence(foreign, registry, key, value, message):
    with pytest.raises(InputError, match=message):
        verify_file(foreign(**{key: value}), registry)


def test_scaling_is_read_from_the_keys(foreign):
    scaled = foreign(**{"llama.rope.scaling.type": string("linear"), "llama.rope.scaling.factor": f32(4.0)})
    scaling = implied_contract(read_gguf(scaled)).model.rope_scaling
    assert (scaling.kind, scaling.factor) == ("linear", 4.0)
    with pytest.raises(GGUFError, match=r"rope\.scaling\.factor is missing"):
        implied_contract(read_gguf(foreign(**{"llama.rope.scaling.type": string("yarn")})))
