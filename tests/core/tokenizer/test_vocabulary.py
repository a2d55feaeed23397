import dataclasses

import pytest

from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.tokenizer.vocabulary import check_vocabulary


@pytest.fixture
def vocabulary(tmp_path, tokenizer_bytes):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    return read_vocabulary(tmp_path / "tokenizer.model")


def test_a_tokenizer_by_the_recipe_has_no_findings(vocabulary, micro):
    assert check_vocabulary(vocabulary, micro) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"model": "unigram"}, "tokenizer.model"),
        ({"byte_fallback": False}, "tokenizer.byte_fallback"),
        ({"normalization": "nmt_nfkc"}, "tokenizer.normalization"),
        ({"add_dummy_prefix": False}, "tokenizer.add_dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "tokenizer.remove_extra_whitespaces"),
        ({"bos_id": 2}, "tokenizer.bos_id"),
        ({"pad_id": 3}, "tokenizer.pad_id"),
    ],
)
def test_each_departure_from_the_recipe_is_a_finding(vocabulary, micro, change, where):
    findings = check_vocabulary(dataclasses.replace(vocabulary, **change), micro)
    assert [finding.where for finding in findings] == [where]


def test_too_few_pieces_are_a_finding_with_a_hint(vocabulary, micro):
    fewer = dataclasses.replace(vocabulary, pieces=vocabulary.pieces[:-1])
    (finding,) = check_vocabulary(fewer, micro)
    assert (finding.expected, finding.found) == ("400 pieces", "399 pieces")
    assert "train the tokenizer" in finding.hint


def test_a_piece_twice_and_an_empty_piece_are_findings(vocabulary, micro):
    pieces = (*vocabulary.pieces[:-2], "", vocabulary.pieces[300])
    found = [finding.where for finding in check_vocabulary(dataclasses.replace(vocabulary, pieces=pieces), micro)]
    assert found == ["tokenizer piece 398", "tokenizer piece 399"]


def test_a_pinned_tokenizer_must_be_that_very_one(vocabulary, micro):
    pinned = dataclasses.replace(micro, tokenizer=dataclasses.replace(micro.tokenizer, sha256="0" * 64))
    assert [finding.where for finding in check_vocabulary(vocabulary, pinned)] == ["tokenizer.sha256"]
