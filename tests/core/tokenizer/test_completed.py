import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.core.tokenizer.completed import completed, resolved
from conform.core.tokenizer.settings import TokenizerSettings
from conform.core.tokenizer.token import AddedToken
from conform.core.tokenizer.tokenizer import read_vocabulary

TOKENS = st.builds(AddedToken, st.integers(0, 450), st.text(min_size=1, max_size=4), st.booleans())
ADDED = st.lists(TOKENS, max_size=6, unique_by=lambda token: token.id).map(tuple)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory, tokenizer_bytes):
    path = tmp_path_factory.mktemp("model") / "tokenizer.model"
    path.write_bytes(tokenizer_bytes)
    return read_vocabulary(path)


@given(added=ADDED, rows=st.integers(400, 440))
def test_every_row_has_a_piece_and_every_added_token_its_row(vocabulary, added, rows):
    found = completed(vocabulary, TokenizerSettings(added=added), rows)
    assert len(found.pieces) == len(found.scores) == len(found.types) == rows
    changed = {token.id: token for token in added if token.id < rows}
    for number in range(rows):
        if number in changed:
            assert found.pieces[number] in (changed[number].text, changed[number].text.replace("▁", " "))
        elif number < 400:
            assert found.pieces[number] == vocabulary.pieces[number]
        else:
            assert (found.pieces[number], found.types[number]) == (f"[PAD{number}]", 5)


@given(added=ADDED, rows=st.integers(400, 440), data=st.data())
def test_a_special_token_is_the_first_piece_of_its_text(vocabulary, added, rows, data):
    settings = TokenizerSettings(added=added)
    whole = completed(vocabulary, settings, rows)
    text = data.draw(st.sampled_from([*whole.pieces[:5], *(token.text for token in added), "no such piece"]))
    named = dataclasses.replace(settings, bos=text)
    texts = {token.id: token.text for token in added if token.id < rows}
    spelled = [texts.get(number, piece) for number, piece in enumerate(whole.pieces)]
    assert resolved(vocabulary, named, rows).bos_id == (spelled.index(text) if text in spelled else -1)
    assert completed(vocabulary, named, rows).bos_id == resolved(vocabulary, named, rows).bos_id


def test_settings_that_say_nothing_change_nothing(vocabulary):
    assert completed(vocabulary, TokenizerSettings(), 400) == vocabulary
