import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from conform.core.errors import CheckpointError
from conform.core.tokenizer.hostile_text import HOSTILE_TEXTS, RESERVED_TEXTS
from conform.core.tokenizer.score_merge import ScoreMerge
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.tokenizer.vocabulary import Vocabulary


def vocabulary(pieces, unk_id=0):
    """pieces: (text, score, type), the unknown piece before them."""
    texts, scores, types = zip(("<unk>", 0.0, 2), *pieces, strict=True)
    return Vocabulary(
        pieces=texts, scores=scores, types=types, model="bpe", unk_id=unk_id, bos_id=-1, eos_id=-1, pad_id=-1,
        byte_fallback=True, normalization="identity", add_dummy_prefix=True, remove_extra_whitespaces=False,
        escape_whitespaces=True, digest="",
    )  # fmt: skip


def encode(text, *pieces):
    found = vocabulary([(piece, score, 1) for piece, score in pieces])
    return [found.pieces[number] for number in ScoreMerge(found).encode(text)]


def test_the_highest_score_is_merged_first():
    assert encode("abc", ("▁", -9), ("ab", -2), ("bc", -1), ("a", -9), ("c", -9)) == ["▁", "a", "bc"]
    assert encode("abc", ("▁", -9), ("ab", -1), ("bc", -2), ("a", -9), ("c", -9)) == ["▁", "ab", "c"]


def test_the_leftmost_is_merged_first_among_equals():
    assert encode("aaa", ("▁", -9), ("aa", -1), ("a", -9)) == ["▁", "aa", "a"]


def test_a_longer_piece_needs_its_halves_on_the_way():
    # "abcd" is never reached, because neither "abc" nor "bcd" nor "cd" is a piece.
    assert encode("abcd", ("▁", -9), ("abcd", 0), ("ab", -1), ("c", -9), ("d", -9)) == ["▁", "ab", "c", "d"]


def test_left_over_symbols_become_bytes_or_unknown():
    bytes_of_e = [("<0xC3>", 0.0, 6), ("<0xA9>", 0.0, 6)]
    assert ScoreMerge(vocabulary([("▁", -1, 1), *bytes_of_e])).encode("é") == [1, 2, 3]
    assert ScoreMerge(vocabulary([("▁", -1, 1), bytes_of_e[0]])).encode("é") == [1, 0]


def test_special_pieces_are_not_spelled_by_text():
    pieces = [("▁", -1, 1), ("<s", -1, 1), (">", -9, 1), ("<s>", 0.0, 3), ("<", -9, 1), ("s", -9, 1)]
    assert ScoreMerge(vocabulary(pieces)).encode("<s>") == [1, 2, 3]


def test_an_empty_text_has_no_ids():
    assert ScoreMerge(vocabulary([("▁", -1, 1)])).encode("") == []


@pytest.mark.parametrize("piece", ["<0xZZ>", "byte", "<0x100>", ""])
def test_a_byte_piece_that_names_no_byte_is_refused(piece):
    with pytest.raises(CheckpointError, match="byte piece"):
        ScoreMerge(vocabulary([(piece, 0.0, 6)]))


def test_without_a_dummy_prefix_the_text_is_merged_as_it_is():
    found = vocabulary([("▁", -9, 1), ("▁a", -1, 1), ("a", -9, 1)])
    assert ScoreMerge(found, dummy_prefix=False).encode("a a") == [3, 2]
    assert ScoreMerge(found).encode("a a") == [2, 2]


@pytest.fixture(scope="module")
def both(tmp_path_factory, tokenizer_bytes):
    model = tmp_path_factory.mktemp("model") / "tokenizer.model"
    model.write_bytes(tokenizer_bytes)
    return sentencepiece.SentencePieceProcessor(model_file=str(model)), ScoreMerge(read_vocabulary(model))


@pytest.mark.parametrize("text", [*HOSTILE_TEXTS, *RESERVED_TEXTS])
def test_hostile_texts_get_the_ids_of_sentencepiece(both, text):
    processor, merger = both
    assert merger.encode(text) == processor.encode(text)


@given(
    text=st.text(st.characters(codec="utf-8"), max_size=60)
    | st.text(st.sampled_from(" \n_abcdefghij()=:"), max_size=80)
)
def test_any_text_gets_the_ids_of_sentencepiece(both, text):
    processor, merger = both
    assert merger.encode(text) == processor.encode(text)
