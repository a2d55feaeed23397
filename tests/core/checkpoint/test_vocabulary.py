import dataclasses
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.checkpoint.vocabulary import check_vocabulary, read_vocabulary
from conform.core.errors import CheckpointError, InputError


@pytest.fixture
def vocabulary(tmp_path, tokenizer_bytes):
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
    return read_vocabulary(tmp_path / "tokenizer.model")


def test_pieces_are_those_of_sentencepiece(vocabulary, tokenizer_bytes):
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer_bytes)
    ids = range(processor.vocab_size())
    assert vocabulary.pieces == tuple(processor.id_to_piece(number) for number in ids)
    assert vocabulary.scores == tuple(processor.get_score(number) for number in ids)
    assert [kind == 6 for kind in vocabulary.types] == [processor.is_byte(number) for number in ids]
    assert [kind == 3 for kind in vocabulary.types] == [processor.is_control(number) for number in ids]
    assert [kind == 2 for kind in vocabulary.types] == [processor.is_unknown(number) for number in ids]
    assert vocabulary.digest == hashlib.sha256(tokenizer_bytes).hexdigest()


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


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x0a\x05ab", b"\x0b", b"\x80" * 11],
    ids=["empty", "text", "long varint", "truncated", "group", "endless varint"],
)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.model"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: not a SentencePiece model"):
        read_vocabulary(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_vocabulary(tmp_path / "tokenizer.model")


@given(st.data())
def test_damaged_models_raise_nothing_but_checkpoint_errors(tmp_path_factory, tokenizer_bytes, data):
    content = bytearray(tokenizer_bytes[: data.draw(st.integers(0, len(tokenizer_bytes)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzzed.model"
    path.write_bytes(content)
    try:
        vocabulary = read_vocabulary(path)
    except CheckpointError:
        return
    assert len(vocabulary.pieces) == len(vocabulary.scores) == len(vocabulary.types)
