import contextlib
import dataclasses
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conform.contract.errors import ContractError, InputError
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import GGUFError
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.gguf.seal import SEAL_KEYS
from conform.core.metadata import KeyValue, f32, i32_array, string, string_array, u32
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify import verify_file


@pytest.fixture(scope="module")
def exported(tmp_path_factory, registry, micro_ternary, tokenizer_bytes, make_checkpoint):
    """Quantizer's name → the bytes of an export of the ternary micro model."""
    folder = make_checkpoint(tmp_path_factory.mktemp("verify") / "checkpoint", micro_ternary)
    opened = open_checkpoint(folder)
    vocabulary = read_vocabulary(opened.tokenizer_path)

    def export(quant):
        plan = plan_export(opened, micro_ternary, vocabulary, registry, quant, folder / f"{quant}.gguf")
        return run_export(plan).path.read_bytes()

    return {quant: export(quant) for quant in ("f32", "f16", "q8_0", "i2_s")}


@pytest.fixture
def check(tmp_path, registry):
    """Findings of some bytes, as (where, severity) pairs."""

    def run(content, contract=None):
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        return list(verify_file(path, registry, contract).findings)

    return run


def where(findings, severity="error"):
    return [finding.where for finding in findings if finding.severity == severity]


def offset_of(content, name, tmp_path):
    path = tmp_path / "offset.gguf"
    path.write_bytes(content)
    return read_gguf(path).tensors[name].offset


@pytest.mark.parametrize("quant", ["f32", "f16", "q8_0", "i2_s"])
def test_an_export_has_no_findings(exported, check, rewrite, micro_ternary, quant):
    assert check(exported[quant]) == []
    assert check(exported[quant], micro_ternary) == []
    assert rewrite(exported[quant]) == exported[quant]


BAD_KEYS = {
    "llama.block_count": u32(3),
    "llama.context_length": u32(1),
    "llama.embedding_length": u32(255),
    "llama.feed_forward_length": u32(0),
    "llama.vocab_size": u32(399),
    "llama.attention.head_count": u32(4),
    "llama.attention.head_count_kv": u32(8),
    "llama.attention.key_length": u32(64),
    "llama.attention.value_length": u32(64),
    "llama.attention.layer_norm_rms_epsilon": f32(1e-6),
    "llama.rope.dimension_count": u32(16),
    "llama.rope.freq_base": f32(500000),
    "general.architecture": string("qwen2"),
    "general.quantization_version": u32(1),
    "tokenizer.ggml.model": string("gpt2"),
    "tokenizer.ggml.bos_token_id": u32(2),
    "tokenizer.ggml.eos_token_id": u32(400),
    "tokenizer.ggml.unknown_token_id": u32(1),
    "tokenizer.ggml.add_bos_token": KeyValue(7, False),
    "tokenizer.ggml.add_space_prefix": KeyValue(7, False),
}


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_of_another_value_or_type_or_none_is_an_error(exported, check, rewrite, key):
    content = exported["f16"]
    assert key in where(check(rewrite(content, {key: BAD_KEYS[key]})))
    assert key in where(check(rewrite(content, {key: None})))
    assert key in where(check(rewrite(content, {key: string_array(["x"])})))


def test_a_count_must_be_u32(exported, check, rewrite):
    findings = check(rewrite(exported["f16"], {"llama.block_count": KeyValue(10, 2)}))
    assert [(f.where, f.expected, f.found) for f in findings] == [("llama.block_count", "uint32", "uint64")]


def test_an_unknown_key_of_the_architecture_is_an_error_and_others_are_not(exported, check, rewrite):
    added = {"llama.rope.scaling.factor": f32(2), "general.author": string("x"), "acme.flavour": string("x")}
    findings = check(rewrite(exported["f16"], added))
    assert where(findings) == ["llama.rope.scaling.factor"]
    assert where(findings, "warning") == ["acme.flavour"]


@pytest.mark.parametrize(
    ("part", "index", "value", "expected"),
    [
        ("tokens", 300, "", "tokenizer.ggml.tokens[300]"),
        ("tokens", 300, "<s>", "tokenizer.ggml.tokens[300]"),
        ("scores", 7, float("nan"), "tokenizer.ggml.scores[7]"),
        ("token_type", 9, 0, "tokenizer.ggml.token_type[9]"),
        ("tokens", None, None, "tokenizer.ggml.tokens"),
        ("scores", None, None, "tokenizer.ggml.scores"),
        ("token_type", None, None, "tokenizer.ggml.token_type"),
    ],
)
def test_tokenizer_arrays_are_looked_into(exported, check, rewrite, tmp_path, part, index, value, expected):
    path = tmp_path / "tokens.gguf"
    path.write_bytes(exported["f16"])
    items = list(read_gguf(path).metadata[f"tokenizer.ggml.{part}"])
    if index is None:
        items = items[:-1]
    else:
        items[index] = value
    kinds = {"tokens": string_array, "token_type": i32_array, "scores": lambda v: KeyValue(9, tuple(v), 6)}
    assert where(check(rewrite(exported["f16"], {f"tokenizer.ggml.{part}": kinds[part](items)}))) == [expected]


@pytest.mark.parametrize(("name", "value"), [("add_eos_token", True), ("remove_extra_whitespaces", True), ("pre", "x")])
def test_a_key_that_may_be_missing_must_say_what_the_contract_says(exported, check, rewrite, name, value):
    key = f"tokenizer.ggml.{name}"
    written = string(value) if isinstance(value, str) else KeyValue(7, value)
    assert where(check(rewrite(exported["f16"], {key: written}))) == [key]
    assert where(check(rewrite(exported["f16"], {key: None}))) == []


def test_a_contract_that_adds_eos_needs_the_key(exported, check, rewrite, micro_ternary):
    added = dataclasses.replace(micro_ternary, tokenizer=dataclasses.replace(micro_ternary.tokenizer, add_eos=True))
    key = "tokenizer.ggml.add_eos_token"
    assert key in where(check(exported["f16"], added))
    assert key in where(check(rewrite(exported["f16"], {key: None}), added))
    assert key not in where(check(rewrite(exported["f16"], {key: KeyValue(7, True)}), added))


@pytest.mark.parametrize(("number", "kind", "index"), [(1, 1, "[1]"), (2, 6, "[2]"), (9, 1, "")])
def test_a_token_of_another_kind_is_an_error(exported, check, rewrite, tmp_path, number, kind, index):
    path = tmp_path / "kinds.gguf"
    path.write_bytes(exported["f16"])
    kinds = list(read_gguf(path).metadata["tokenizer.ggml.token_type"])
    kinds[number] = kind
    changed = rewrite(exported["f16"], {"tokenizer.ggml.token_type": i32_array(kinds)})
    assert f"tokenizer.ggml.token_type{index}" in where(check(changed))


@pytest.mark.parametrize(("quant", "layout"), [("i2_s", "mips"), ("i2_s", ""), ("f16", "x86")])
def test_a_byte_layout_that_means_nothing_is_an_error(exported, check, rewrite, quant, layout):
    assert where(check(rewrite(exported[quant], {"conform.i2_s.layout": string(layout)}))) == ["conform.i2_s.layout"]


def test_a_file_type_that_does_not_fit_is_a_warning(exported, check, rewrite):
    findings = check(rewrite(exported["f16"], {"general.file_type": u32(7)}))
    assert where(findings) == []
    assert where(findings, "warning") == ["general.file_type"]


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        ({"output_norm.weight": {"name": "blk.2.attn_norm.weight"}}, ["output_norm.weight", "blk.2.attn_norm.weight"]),
        ({"blk.0.ffn_up.weight": {"shape": (256, 512)}}, ["blk.0.ffn_up.weight"]),
        ({"blk.0.attn_q.weight": {"shape": (256, 255)}}, ["blk.0.attn_q.weight"]),
        ({"blk.0.attn_q.weight": {"ggml_type": 0}}, ["blk.0.attn_k.weight"]),
        ({"blk.0.attn_q.weight": {"ggml_type": 777}}, ["blk.0.attn_q.weight"]),
        ({"blk.0.attn_norm.weight": {"offset": 0}}, ["blk.0.attn_norm.weight"]),
        ({"blk.0.attn_norm.weight": {"offset": 204_804}}, ["blk.0.attn_norm.weight"]),
        ({"output_norm.weight": {"offset": 1 << 40}}, ["output_norm.weight"]),
    ],
)
def test_a_wrong_descriptor_is_an_error(exported, check, rewrite, tensors, expected):
    found = where(check(rewrite(exported["f16"], tensors=tensors)))
    assert set(expected) <= set(found)


def test_a_special_id_behind_the_last_token_is_an_error(exported, check, rewrite):
    key = "tokenizer.ggml.padding_token_id"
    assert where(check(rewrite(exported["f16"], {key: u32(400)}))) == [key]
    assert check(rewrite(exported["f16"], {key: u32(399)})) == []


@pytest.mark.parametrize(("quant", "kind"), [("f32", 26), ("f16", 25)], ids=["i32", "i16"])
def test_weights_are_not_whole_numbers(exported, check, rewrite, quant, kind):
    tensor = {"f32": "blk.0.attn_norm.weight", "f16": "blk.0.attn_q.weight"}[quant]
    findings = check(rewrite(exported[quant], tensors={tensor: {"ggml_type": kind}}))
    assert [(f.where, f.expected) for f in findings if f.severity == "error"] == [(tensor, "a type that holds weights")]


def test_a_transposed_tensor_is_called_so(exported, check, rewrite):
    (finding,) = check(rewrite(exported["f16"], tensors={"blk.0.ffn_up.weight": {"shape": (256, 512)}}))
    assert (finding.expected, finding.found, finding.hint) == ("shape 512×256", "shape 256×512", "it is transposed")


def test_a_missing_tensor_and_a_gap_are_both_reported(exported, check, rewrite):
    findings = check(rewrite(exported["f16"], tensors={"blk.0.attn_v.weight": None}))
    assert where(findings) == ["blk.0.attn_v.weight", "blk.0.attn_output.weight"]
    assert [finding.hint for finding in findings] == ["the contract needs it", "leaves a gap before it"]


def test_a_truncated_file_is_a_finding(exported, check):
    findings = check(exported["f16"][:-1000])
    assert where(findings) == ["output_norm.weight"]
    assert "truncated" in findings[0].hint
    assert findings[0].expected == f"a file of {len(exported['f16'])} bytes or more"


def test_bytes_behind_the_last_tensor_are_a_finding(exported, check):
    assert where(check(exported["f16"] + bytes(32))) == ["end of file"]


def test_padding_that_is_not_zero_is_a_finding(exported, check, rewrite, tmp_path):
    start = 0
    for length in (1, 2):  # with one of them the header does not end on the alignment
        content = bytearray(rewrite(exported["f16"], {"general.author": string("x" * length)}))
        start = offset_of(content, "token_embd.weight", tmp_path)
        if content[start - 1] == 0:
            break
    assert check(bytes(content)) == []
    content[start - 1] = 1
    assert where(check(bytes(content))) == ["padding after the header"]


@pytest.mark.parametrize(("quant", "bits"), [("f32", "<f4"), ("f16", "<f2")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_found_with_their_row(exported, check, rewrite, tmp_path, quant, bits, value):
    content = bytearray(exported[quant])
    start = offset_of(exported[quant], "blk.1.ffn_up.weight", tmp_path)
    size = np.dtype(bits).itemsize
    position = start + (300 * 256 + 5) * size
    content[position : position + size] = np.array([value], bits).tobytes()
    (finding,) = check(rewrite(bytes(content)))
    assert (finding.where, finding.found) == ("blk.1.ffn_up.weight", "NaN or infinity in row 300")


def test_a_scale_that_is_not_finite_is_found(exported, check, rewrite, tmp_path):
    content = bytearray(exported["q8_0"])
    start = offset_of(exported["q8_0"], "blk.1.attn_k.weight", tmp_path)
    content[start + 34 * 8 * 3 : start + 34 * 8 * 3 + 2] = struct.pack("<e", float("inf"))
    (finding,) = check(rewrite(bytes(content)))
    assert (finding.where, finding.found) == ("blk.1.attn_k.weight", "NaN or infinity in row 3")


@pytest.mark.parametrize(
    ("position", "content", "severity", "found"),
    [
        (10, b"\xc0", "error", "it occurs in 1 bytes"),
        (64 * 256 // 4, struct.pack("<f", float("nan")), "error", "nan"),
        (64 * 256 // 4, struct.pack("<f", 0.0), "error", "0.0"),
        (64 * 256 // 4, struct.pack("<f", -1.0), "error", "-1.0"),
        (64 * 256 // 4 + 9, b"\1", "warning", "other bytes"),
    ],
    ids=["code 3", "scale nan", "scale 0", "negative scale", "tail"],
)
def test_a_broken_i2_s_tensor_is_found(exported, check, rewrite, tmp_path, position, content, severity, found):
    changed = bytearray(exported["i2_s"])
    start = offset_of(exported["i2_s"], "blk.0.attn_k.weight", tmp_path) + position
    changed[start : start + len(content)] = content
    (finding,) = check(rewrite(bytes(changed)))
    assert (finding.where, finding.severity, finding.found) == ("blk.0.attn_k.weight", severity, found)


def test_a_scale_repeated_through_the_tail_is_accepted(exported, check, rewrite, tmp_path):
    changed = bytearray(exported["i2_s"])
    start = offset_of(exported["i2_s"], "blk.0.attn_k.weight", tmp_path) + 64 * 256 // 4
    changed[start : start + 32] = changed[start : start + 4] * 8
    assert check(rewrite(bytes(changed))) == []


def test_another_contract_than_the_files_is_an_error(exported, check, micro, micro_ternary):
    assert where(check(exported["f16"], micro)) == ["conform.contract.digest"]
    other = dataclasses.replace(micro_ternary, model=dataclasses.replace(micro_ternary.model, layers=3))
    found = where(check(exported["f16"], other))
    assert "llama.block_count" in found
    assert "blk.2.attn_q.weight" in found


CONFORM_KEYS = (
    *("conform.contract", "conform.contract.name", "conform.contract.digest", "conform.checkpoint.digest"),
    *("conform.tokenizer.digest", "conform.quantizers", "conform.plugins", *SEAL_KEYS),
)


def test_a_file_that_has_lost_its_contract_alone_was_edited(exported, check, rewrite, micro_ternary):
    edited = rewrite(exported["f16"], dict.fromkeys(CONFORM_KEYS[:3]))
    with pytest.raises(GGUFError, match="carries no contract"):
        check(edited)
    assert check(rewrite(exported["f16"], dict.fromkeys(CONFORM_KEYS)), micro_ternary) == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("conform.contract.digest", string("0" * 64), "edited or damaged"),
        ("conform.contract", string("{}"), "edited or damaged"),
        ("conform.contract", u32(5), "carries no contract"),
    ],
)
def test_an_embedded_contract_must_be_whole(exported, check, rewrite, key, value, message):
    with pytest.raises(GGUFError, match=message):
        check(rewrite(exported["f16"], {key: value}))


def test_a_hostile_contract_in_a_file_is_refused_at_once(exported, check, rewrite, micro_ternary):
    canonical = micro_ternary.canonical().replace('"layers":2', '"layers":2147483647')
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    keys = {"conform.contract": string(canonical), "conform.contract.digest": string(digest)}
    with pytest.raises(ContractError, match="layers = 2147483647: expected at most 10000"):
        check(rewrite(exported["f16"], keys))


@pytest.mark.parametrize("text", ["[]", "5", "{}", '{"model": 5}', '{"model": {}}', "[" * 100_000, "nonsense"])
def test_a_contract_that_is_none_is_refused(exported, check, rewrite, text):
    digest = hashlib.sha256(text.encode()).hexdigest()
    keys = {"conform.contract": string(text), "conform.contract.digest": string(digest)}
    with pytest.raises(InputError, match=r"conform\.contract: (not the canonical|missing|model: expected a table)"):
        check(rewrite(exported["f16"], keys))


def test_a_class_stored_against_the_policy_is_a_warning(checkpoint, micro, registry, tmp_path):
    from conform.core.export.policy import TypeOverride

    opened = open_checkpoint(checkpoint)
    vocabulary = read_vocabulary(opened.tokenizer_path)
    overrides = [TypeOverride("token_embd", "q8_0")]
    plan = plan_export(opened, micro, vocabulary, registry, "f16", tmp_path / "x.gguf", overrides=overrides)
    findings = verify_file(run_export(plan).path, registry).findings
    assert where(findings, "warning") == ["token_embd.weight"]
    assert where(findings) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_header_is_an_error_or_findings_and_never_a_crash(exported, check, data):
    content = bytearray(exported["i2_s"])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(8, 12_200))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(GGUFError):
        check(bytes(content))
