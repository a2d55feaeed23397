import dataclasses
from types import SimpleNamespace

import pytest

from conform.contract.infer import SENTENCEPIECE_BPE
from conform.core.verify.foreign_keys import check_foreign_keys

BYTE_LEVEL = dataclasses.replace(SENTENCEPIECE_BPE, model="byte-level", pre="llama-bpe")


def found(key, value, spec=SENTENCEPIECE_BPE, known=()):
    return list(check_foreign_keys(SimpleNamespace(metadata={key: value}), frozenset(known), spec))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cls_token_id", 1),
        ("mask_token_id", 1),
        ("seperator_token_id", 2),
        ("add_sep_token", False),
        ("token_type_count", 2),
        ("fim_pre_token_id", 7),
        ("middle_token_id", 7),
        ("eot_token_id", 2),
        ("fim_pad_token_id", 2),
        ("normalizer.lowercase", False),
        ("precompiled_charsmap", []),
        ("suppress_tokens", []),
    ],
)
def test_what_changes_nothing_is_no_finding(name, value):
    assert found(f"tokenizer.ggml.{name}", value) == []


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("eot_token_id", 7, "a runtime stops at this token too"),
        ("eom_token_id", 7, "a runtime stops at this token too"),
        ("fim_sep_token_id", 7, "a runtime stops at this token too"),
        ("add_sep_token", True, "puts a separator behind every text"),
        ("normalizer.lowercase", True, "in lower case"),
        ("normalizer.strip_accents", True, "takes accents away"),
        ("precompiled_charsmap", [1, 2], "rewrites characters"),
        ("suppress_tokens", [5], "never generates"),
        ("merges", ["a b"], "the contract does not mention it"),
        ("unknown_token_id", 3, "the contract does not mention it"),
        ("invented", 1, "the contract does not mention it"),
    ],
)
def test_what_a_runtime_obeys_is_a_violation(name, value, hint):
    (finding,) = found(f"tokenizer.ggml.{name}", value)
    assert (finding.severity, finding.where) == ("error", f"tokenizer.ggml.{name}")
    assert hint in finding.hint


def test_nothing_is_unknown_to_a_byte_level_bpe():
    assert found("tokenizer.ggml.unknown_token_id", 0, BYTE_LEVEL) == []


def test_known_keys_and_those_of_others_are_left_alone():
    assert found("tokenizer.ggml.merges", ["a b"], known=["tokenizer.ggml.merges"]) == []
    assert found("general.name", "x") == []
