"""The keys of a byte-level BPE, written from a tokenizer.json and its settings, and everything that spoils them."""

import dataclasses
import json

import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.metadata import boolean, f32_array, string, string_array
from conform.core.tokenizer.tokenizer import tokenizer_of
from conform.core.verify import verify_file
from conform.core.verify.source import check_pieces


@pytest.fixture(scope="module")
def contract(micro):
    ids = {"unk_id": -1, "bos_id": 0, "eos_id": 1, "add_bos": False}
    kind = {"model": "byte-level", "pre": "smollm", "byte_fallback": False, "add_dummy_prefix": False}
    return dataclasses.replace(micro, tokenizer=dataclasses.replace(micro.tokenizer, **ids, **kind))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, contract, make_checkpoint, make_tokenizer_json):
    folder = make_checkpoint(tmp_path_factory.mktemp("byte-level") / "checkpoint", contract, sidecar=False)
    (folder / "tokenizer.model").unlink()
    (folder / "tokenizer.json").write_text(json.dumps(make_tokenizer_json(390, "smollm")))
    settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def vocabulary(folder, contract):
    found = tokenizer_of(folder / "tokenizer.json", contract)
    assert [finding.severity for finding in found.findings] == ["warning"]  # ten rows are padded
    return found.vocabulary


@pytest.fixture(scope="module")
def exported(folder, contract, vocabulary, registry):
    plan = plan_export(open_checkpoint(folder), contract, vocabulary, registry, "f16", folder / "f16.gguf")
    return run_export(plan).path.read_bytes()


@pytest.fixture
def check(tmp_path, registry, contract):
    def run(content):
        (tmp_path / "file.gguf").write_bytes(content)
        return list(verify_file(tmp_path / "file.gguf", registry, contract).findings)

    return run


def where(findings):
    return [finding.where for finding in findings]


def test_an_export_has_no_findings(exported, check):
    assert check(exported) == []


def test_the_keys_are_those_of_llama_cpp_s_converter(exported, vocabulary, tmp_path):
    (tmp_path / "file.gguf").write_bytes(exported)
    metadata = read_gguf(tmp_path / "file.gguf").metadata
    found = {key.removeprefix("tokenizer.ggml."): metadata[key] for key in metadata if key.startswith("tokenizer.")}
    assert found == {
        "model": "gpt2",
        "pre": "smollm",
        "tokens": list(vocabulary.pieces),
        "token_type": list(vocabulary.types),
        "merges": list(vocabulary.merges),
        "bos_token_id": 0,
        "eos_token_id": 1,
        "add_bos_token": False,
        "add_eos_token": False,
    }
    assert found["tokens"][389:391] == [vocabulary.pieces[389], "[PAD390]"]


SPOILT = {
    "model": string("llama"),
    "pre": string("llama-bpe"),
    "add_bos_token": boolean(True),
    "add_eos_token": boolean(True),
    "add_space_prefix": boolean(True),
    "remove_extra_whitespaces": boolean(True),
    "merges": string("a b"),
}


@pytest.mark.parametrize("key", SPOILT)
def test_each_key_of_another_value_is_found(exported, check, rewrite, key):
    assert f"tokenizer.ggml.{key}" in where(check(rewrite(exported, {f"tokenizer.ggml.{key}": SPOILT[key]})))


@pytest.mark.parametrize("key", ["model", "pre", "tokens", "token_type", "merges", "add_bos_token", "bos_token_id"])
def test_each_key_that_is_missing_is_found(exported, check, rewrite, key):
    assert f"tokenizer.ggml.{key}" in where(check(rewrite(exported, {f"tokenizer.ggml.{key}": None})))


def test_scores_are_harmless(exported, check, rewrite):
    assert where(check(rewrite(exported, {"tokenizer.ggml.scores": f32_array([0.0] * 400)}))) == []


@pytest.mark.parametrize("wrong", ["zz q", "ab", "", "a b c"])
def test_a_merge_that_joins_no_two_tokens_is_found(exported, check, rewrite, vocabulary, wrong):
    merges = string_array([*vocabulary.merges[:3], wrong, *vocabulary.merges[4:]])
    assert where(check(rewrite(exported, {"tokenizer.ggml.merges": merges}))) == ["tokenizer.ggml.merges[3]"]


def test_a_merge_that_occurs_twice_is_found(exported, check, rewrite, vocabulary):
    merges = string_array([*vocabulary.merges, vocabulary.merges[0]])
    found = where(check(rewrite(exported, {"tokenizer.ggml.merges": merges})))
    assert found == [f"tokenizer.ggml.merges[{len(vocabulary.merges)}]"]


def test_the_seal_covers_merges(exported, check, rewrite, vocabulary):
    swapped = string_array([vocabulary.merges[1], vocabulary.merges[0], *vocabulary.merges[2:]])
    found = [finding.where for finding in check(rewrite(exported, {"tokenizer.ggml.merges": swapped}, sealed=False))]
    assert "conform.vocabulary.sha256" in found


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda merges: [merges[1], merges[0], *merges[2:]], "tokenizer.ggml.merges[0]"),
        (lambda merges: merges[:-1], "tokenizer.ggml.merges"),
    ],
)
def test_other_merges_than_the_tokenizers_are_found(exported, rewrite, vocabulary, tmp_path, change, key):
    spoilt = rewrite(exported, {"tokenizer.ggml.merges": string_array(change(list(vocabulary.merges)))})
    (tmp_path / "file.gguf").write_bytes(spoilt)
    assert [finding.where for finding in check_pieces(read_gguf(tmp_path / "file.gguf"), vocabulary)] == [key]
