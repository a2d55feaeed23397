import dataclasses

import pytest

from conform.contract.infer import SENTENCEPIECE_BPE
from conform.core.tokenizer.check import check_model
from conform.core.tokenizer.tokenizer import read_vocabulary

NO_PREFIX = dataclasses.replace(SENTENCEPIECE_BPE, add_dummy_prefix=False)
NO_BOS = dataclasses.replace(SENTENCEPIECE_BPE, bos_id=-1, add_bos=False)


@pytest.fixture
def vocabulary(tmp_path, tokenizer_bytes):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    return read_vocabulary(tmp_path / "tokenizer.model")


def typed(vocabulary, kind, *numbers):
    types = list(vocabulary.types)
    for number in numbers:
        types[number] = kind
    return dataclasses.replace(vocabulary, types=tuple(types))


def found(vocabulary, spec=None):
    return [(finding.severity, finding.where) for finding in check_model(vocabulary, spec)]


def test_our_recipe_has_no_findings(vocabulary):
    assert found(vocabulary) == found(vocabulary, SENTENCEPIECE_BPE) == []


@pytest.mark.parametrize("spec", [None, SENTENCEPIECE_BPE])
@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model": "unigram"}, "tokenizer.model_type"),
        ({"byte_fallback": False}, "tokenizer.byte_fallback"),
        ({"normalization": "nmt_nfkc"}, "tokenizer.normalization"),
        ({"rewrites_characters": True}, "tokenizer.precompiled_charsmap"),
        ({"remove_extra_whitespaces": True}, "tokenizer.remove_extra_whitespaces"),
        ({"escape_whitespaces": False}, "tokenizer.escape_whitespaces"),
        ({"whitespace_as_suffix": True}, "tokenizer.treat_whitespace_as_suffix"),
        ({"eos_id": -1}, "tokenizer.eos_id"),
        ({"unk_id": 300}, "tokenizer.unk_id"),
    ],
)
def test_what_no_runtime_does_is_an_error_under_any_contract(vocabulary, spec, change, where):
    assert ("error", where) in found(dataclasses.replace(vocabulary, **change), spec)


def test_a_contract_decides_about_the_dummy_prefix(vocabulary):
    bare = dataclasses.replace(vocabulary, add_dummy_prefix=False)
    assert found(bare) == [("error", "tokenizer.add_dummy_prefix")]
    assert found(bare, NO_PREFIX) == []


def test_a_contract_decides_about_bos(vocabulary):
    bare = dataclasses.replace(vocabulary, bos_id=-1)
    assert ("error", "tokenizer.bos_id") in found(bare)
    assert ("error", "tokenizer.bos_id") not in found(bare, NO_BOS)


def test_many_control_pieces_are_one_line(vocabulary):
    many = typed(vocabulary, 3, *range(300, 350))
    (error,) = [finding for finding in check_model(many) if finding.severity == "error"]
    assert error.where.startswith("tokenizer piece 300 ")
    assert error.where.endswith(" and 49 more, up to 349")


def test_a_contract_allows_control_pieces_and_its_padding(vocabulary):
    spec = dataclasses.replace(SENTENCEPIECE_BPE, pad_id=300)
    assert [severity for severity, _ in found(typed(vocabulary, 3, 300), spec)] == ["warning"]  # it could be spelled
    assert {severity for severity, _ in found(typed(vocabulary, 3, 301), spec)} == {"warning"}


@pytest.mark.parametrize(("kind", "name"), [(2, "unknown"), (4, "user-defined"), (5, "unused")])
def test_other_kinds_of_pieces_are_an_error_under_any_contract(vocabulary, kind, name):
    errors = [f for f in check_model(typed(vocabulary, kind, 300), SENTENCEPIECE_BPE) if f.severity == "error"]
    assert [error.found for error in errors] == [f"type {name}"]


def test_every_byte_needs_its_piece_once(vocabulary):
    pieces = list(vocabulary.pieces)
    pieces[10] = pieces[11]
    twice = dataclasses.replace(vocabulary, pieces=tuple(pieces))
    assert ("error", "tokenizer byte pieces") in found(twice)
    assert ("error", "tokenizer byte pieces") in found(typed(vocabulary, 1, 10))
