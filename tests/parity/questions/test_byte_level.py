import dataclasses
import json
from types import SimpleNamespace

import pytest

from conform.core.cases.text import hostile_texts
from conform.core.errors import CheckpointError, GGUFError
from conform.core.tokenizer.bytelevel import parse_byte_level
from conform.parity.questions.byte_level import LibraryPieces, definition_of_file, open_library, pre_tokenizer_of
from conform.parity.questions.tokenizer import (
    bos_ids,
    eos_ids,
    open_tokenizer,
    pieces_as_text,
    printable_pieces,
    tokenizer_of_file,
)

TEXT = "It's 1234 <|begin|> <tool> é漢\n\n  x"


@pytest.fixture
def data(make_tokenizer_json):
    data = json.loads(json.dumps(make_tokenizer_json(400, "llama-bpe")))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    data["added_tokens"].append({"id": 400, "content": "<tool>", **flags})
    return data


@pytest.fixture
def path(data, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def file(data, tmp_path):
    """What a GGUF file of that tokenizer says, with two rows of padding."""
    vocab = data["model"]["vocab"]
    metadata = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": [*sorted(vocab, key=vocab.get), "<tool>", "[PAD401]"],
        "token_type": [3, 3, *[1] * 398, 4, 5],
        "merges": [" ".join(merge) for merge in data["model"]["merges"]],
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    keys = {f"tokenizer.ggml.{key}": value for key, value in metadata.items()}
    return SimpleNamespace(path=tmp_path / "m.gguf", metadata=keys)


def test_a_file_s_own_keys_give_the_ids_of_the_tokenizer_that_it_was_made_from(path, file):
    from_json, from_file = open_tokenizer(path, None), tokenizer_of_file(file)
    for text in (TEXT, *hostile_texts("tokenizer").values()):
        assert from_file.continuation(text) == from_json.continuation(text)
    assert (from_json.size, from_file.size) == (401, 402)


def test_the_definition_of_a_file_reads_back_as_its_own_tokens(file):
    definition = definition_of_file(file, pre_tokenizer_of(file.metadata))
    vocabulary = parse_byte_level(definition.encode(), file.path)
    assert [*vocabulary.pieces, "[PAD401]"] == file.metadata["tokenizer.ggml.tokens"]
    assert [*vocabulary.types, 5] == file.metadata["tokenizer.ggml.token_type"]
    assert [*vocabulary.merges] == file.metadata["tokenizer.ggml.merges"]
    assert vocabulary.pre == "llama-bpe"


def test_control_tokens_are_plain_text_and_user_defined_ones_are_not(path):
    ids = open_tokenizer(path, None).continuation(TEXT)
    assert 400 in ids
    assert 0 not in ids


def test_bos_and_eos_are_those_of_the_contract(path, micro):
    spec = dataclasses.replace(micro.tokenizer, model="byte-level", pre="llama-bpe", bos_id=0, eos_id=1)
    for add_bos in (True, False):
        for add_eos in (True, False):
            tokenizer = open_tokenizer(path, dataclasses.replace(spec, add_bos=add_bos, add_eos=add_eos))
            assert tokenizer.ids("a") == ((0,) if add_bos else ()) + tokenizer.continuation("a") + (
                (1,) if add_eos else ()
            )


def test_without_a_contract_they_are_those_of_the_file(path, file):
    assert (open_tokenizer(path, None).bos, open_tokenizer(path, None).eos) == ((), ())
    assert (bos_ids(file), eos_ids(file)) == ((0,), ())


@pytest.mark.parametrize(("pre", "expected"), [("llama-bpe", (0,)), ("llama3", (0,)), ("tekken", (0,)), ("smollm", ())])
def test_where_the_key_is_missing_bos_is_added_as_llama_cpp_does(file, pre, expected):
    file.metadata["tokenizer.ggml.pre"] = pre
    assert bos_ids(file) == expected
    file.metadata["tokenizer.ggml.add_bos_token"] = not expected
    assert bos_ids(file) == ((0,) if not expected else ())


def test_eos_stands_behind_where_the_file_says_so(file):
    file.metadata["tokenizer.ggml.add_eos_token"] = True
    assert tokenizer_of_file(file).ids("a")[-1] == 1


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "no such name"}, {"pre": None}, {"model": None}])
def test_a_file_whose_words_nobody_knows_has_no_tokenizer(file, changes):
    file.metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    assert pre_tokenizer_of(file.metadata) is None
    assert tokenizer_of_file(file) is None


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"tokens": "a"}, GGUFError),
        ({"token_type": [1]}, GGUFError),
        ({"token_type": [9] * 402}, GGUFError),
        ({"merges": None}, GGUFError),
        ({"merges": ["zz q"]}, CheckpointError),
        ({"merges": ["a b c"]}, CheckpointError),
    ],
)
def test_keys_that_contradict_each_other_are_refused(file, changes, error):
    file.metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    with pytest.raises(error, match=r"m\.gguf"):
        tokenizer_of_file(file)


def test_pieces_are_printed_as_the_bytes_that_they_stand_for(file):
    tokens = file.metadata["tokenizer.ggml.tokens"]
    ids = [tokens.index(piece) for piece in ("Ġ", "Ċ", "Ã", "a")]
    assert pieces_as_text(file, ids, raw_bytes=True) == b" \n\xc3a"
    assert pieces_as_text(file, ids, raw_bytes=False) == b" \n\xc3a"
    assert not {0, 1, 400, 401} & {*printable_pieces(file)}


def test_truncation_and_padding_of_the_file_are_not_applied(data):
    data["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    data["padding"] = {
        "strategy": {"Fixed": 50},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|begin|>",
    }
    assert 2 < len(open_library(json.dumps(data), "here").encode("a b c d")) < 50


def test_what_the_library_cannot_read_is_refused():
    with pytest.raises(CheckpointError, match="here: the library tokenizers cannot read it"):
        open_library("{}", "here")


def test_a_pattern_that_aborts_the_library_is_an_error(data):
    split = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    library = open_library(json.dumps(data | {"pre_tokenizer": split}), "here")
    with pytest.raises(CheckpointError, match="here: its pre-tokenizer fails on the text 'aaaa"):
        library.encode("a" * 60 + "!")


def test_other_exceptions_are_not_hidden():
    class Interrupted:
        def encode(self, text, *, add_special_tokens):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LibraryPieces(Interrupted(), "here").encode("a")


def test_the_definition_is_the_same_whatever_name_of_llama_cpp_is_used(file):
    definitions = []
    for name in ("llama-bpe", "llama3"):
        file.metadata["tokenizer.ggml.pre"] = name
        definitions.append(definition_of_file(file, pre_tokenizer_of(file.metadata)))
    assert definitions[0] == definitions[1]
