import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import CheckpointError, InputError
from conform.core.tokenizer.tokenizer import read_vocabulary


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
