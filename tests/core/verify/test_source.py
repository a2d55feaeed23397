"""What only the checkpoint can decide: a file that was changed and sealed anew."""

import dataclasses
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conform.contract.dump import dump_contract
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.checkpoint.sidecar import Sidecar, write_sidecar
from conform.core.errors import CheckpointError
from conform.core.export import ExportRequest, export_checkpoint
from conform.core.files.digest import file_sha256
from conform.core.gguf.read import read_gguf
from conform.core.metadata import f32_array, i32_array, string, string_array
from conform.core.verify import verify_file
from conform.core.verify.source import check_pieces, origin_digests, verify_against


@pytest.fixture(scope="module")
def source(tmp_path_factory, make_checkpoint, micro_ternary):
    return make_checkpoint(tmp_path_factory.mktemp("source") / "checkpoint", micro_ternary)


@pytest.fixture(scope="module")
def exported(source, registry):
    """Quantizer's name → the bytes of an export of the ternary micro model."""
    reports = export_checkpoint(source, ExportRequest(("bf16", "q8_0", "i2_s", "i2_s_arm")), registry)
    return {report.path.stem.removeprefix("micro-"): report.path.read_bytes() for report in reports}


@pytest.fixture
def check(tmp_path, registry, source):
    """The places of errors, by the file alone and with the checkpoint."""

    def run(content, **options):
        path = tmp_path / "file.gguf"
        path.write_bytes(content)
        alone = [finding.where for finding in verify_file(path, registry).findings]
        return alone, [finding.where for finding in verify_against(path, registry, source, **options).findings]

    return run


@pytest.mark.parametrize("quant", ["bf16", "q8_0", "i2_s", "i2_s_arm"])
def test_an_export_is_what_its_checkpoint_implies(exported, check, quant):
    assert check(exported[quant]) == ([], [])


@pytest.mark.parametrize("part", ["tokens", "scores", "token_type"])
def test_a_vocabulary_that_was_rewritten_and_sealed_is_found(exported, check, rewrite, tmp_path, part):
    (tmp_path / "x.gguf").write_bytes(exported["bf16"])
    items = list(read_gguf(tmp_path / "x.gguf").metadata[f"tokenizer.ggml.{part}"])
    changed = {
        "tokens": string_array([*items[:300], items[301], items[300], *items[302:]]),
        "scores": f32_array([0.0] * len(items)),
        "token_type": i32_array([*items[:300], 4, *items[301:]]),
    }
    alone, findings = check(rewrite(exported["bf16"], {f"tokenizer.ggml.{part}": changed[part]}))
    assert alone == []
    first = next(n for n, item in enumerate(items) if item != changed[part].value[n])
    assert findings == [f"tokenizer.ggml.{part}[{first}]"]


@pytest.mark.parametrize("quant", ["bf16", "q8_0", "i2_s"])
def test_tensors_that_changed_names_and_were_sealed_are_found(exported, check, rewrite, quant):
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    # The names are swapped in the descriptors, and the descriptors keep their places.
    alone, findings = check(rewrite(exported[quant], tensors={gate: {"name": up}, up: {"name": gate}}))
    assert alone == []
    assert sorted(findings) == [gate, up]


def test_one_weight_is_enough(exported, check, rewrite, tmp_path):
    content = bytearray(exported["bf16"])
    (tmp_path / "x.gguf").write_bytes(content)
    content[read_gguf(tmp_path / "x.gguf").tensors["blk.1.attn_v.weight"].offset] ^= 1
    assert check(rewrite(bytes(content))) == ([], ["blk.1.attn_v.weight"])


def test_a_layout_that_was_rewritten_and_sealed_is_found(exported, check, rewrite):
    alone, findings = check(rewrite(exported["i2_s"], {"conform.i2_s.layout": string("arm")}))
    assert alone == []
    assert len(findings) == 14
    assert "blk.0.attn_q.weight" in findings


@pytest.mark.parametrize("key", ["conform.checkpoint.digest", "conform.tokenizer.digest"])
def test_a_file_from_elsewhere_is_found(exported, check, rewrite, key):
    assert check(rewrite(exported["bf16"], {key: string("0" * 64)})) == ([], [key])


def test_another_checkpoint_of_the_same_contract_is_not_the_source(
    exported, registry, make_checkpoint, micro_ternary, tmp_path
):
    path = tmp_path / "file.gguf"
    path.write_bytes(exported["q8_0"])
    other = make_checkpoint(tmp_path / "other", micro_ternary, seed=1)
    found = {finding.where for finding in verify_against(path, registry, other).findings}
    assert {"conform.checkpoint.digest", "blk.0.ffn_up.weight", "output_norm.weight"} <= found


def test_a_head_of_its_own_that_the_contract_ties_is_not_passed_over(
    exported, registry, source, tmp_path, micro_ternary
):
    (tmp_path / "file.gguf").write_bytes(exported["bf16"])
    (tmp_path / "contract.toml").write_text(dump_contract(micro_ternary))
    untied = tmp_path / "untied"
    shutil.copytree(source, untied)
    (untied / "conform.json").unlink()
    weights = load_file(untied / "model.safetensors")
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}, untied / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"lm_head\.weight differs from model\.embed_tokens\.weight"):
        verify_against(tmp_path / "file.gguf", registry, untied, str(tmp_path / "contract.toml"))


def test_a_source_needs_a_tokenizer(exported, registry, make_checkpoint, micro_ternary, tmp_path):
    path, tokenizer = tmp_path / "file.gguf", tmp_path / "elsewhere.model"
    path.write_bytes(exported["bf16"])
    bare = make_checkpoint(tmp_path / "bare", micro_ternary, sidecar=False)
    (bare / "tokenizer.model").rename(tokenizer)
    files = {"model.safetensors": file_sha256(bare / "model.safetensors")}
    write_sidecar(bare, Sidecar(micro_ternary, micro_ternary.digest, files))
    with pytest.raises(
        CheckpointError, match=r"no tokenizer\.model or tokenizer\.json beside the weights; name one with --tokenizer"
    ):
        verify_against(path, registry, bare)
    assert verify_against(path, registry, bare, tokenizer=tokenizer).findings == ()


def test_pieces_of_another_length_are_left_to_the_other_checks(exported, tmp_path, source):
    from conform.core.tokenizer.tokenizer import read_vocabulary

    (tmp_path / "x.gguf").write_bytes(exported["bf16"])
    vocabulary = read_vocabulary(source / "tokenizer.model")
    shorter = dataclasses.replace(vocabulary, pieces=vocabulary.pieces[:-1])
    assert list(check_pieces(read_gguf(tmp_path / "x.gguf"), shorter)) == []


def test_the_origin_of_a_checkpoint(source, micro_ternary):
    opened = open_checkpoint(source)
    digests = origin_digests(opened, micro_ternary)
    assert digests["conform.checkpoint.digest"] == opened.digest
    assert digests["conform.contract.digest"] == micro_ternary.digest
    assert np.char.str_len(digests["conform.tokenizer.digest"]) == 64
