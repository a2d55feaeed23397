import dataclasses
import io
import json
import random

import pytest
import sentencepiece

from conform.contract.finding import failed
from conform.core.errors import CheckpointError
from conform.core.tokenizer.tokenizer import read_vocabulary, tokenizer_of
from conform.core.tokenizer.vocabulary import check_vocabulary

OURS = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "num_threads": 1,
    "minloglevel": 2,
}


def trained(vocab, **changes):
    """A SentencePiece model by our recipe, with changes."""
    rng, model = random.Random(2), io.BytesIO()
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(400)]
    texts = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    options = {**OURS, "vocab_size": vocab, **changes}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **options)
    return model.getvalue()


@pytest.fixture
def tokenizer(tmp_path, tokenizer_bytes):
    """What `tokenizer_of` says of a model with settings beside it, under a contract."""

    def opened(contract, model=None, **files):
        (tmp_path / "tokenizer.model").write_bytes(model or tokenizer_bytes)
        for stem, content in files.items():
            (tmp_path / f"{stem}.json").write_text(json.dumps(content))
        return tokenizer_of(tmp_path / "tokenizer.model", contract)

    return opened


@pytest.fixture
def wider(micro):
    """`micro` with sixteen embedding rows more than its tokenizer has pieces."""
    return dataclasses.replace(micro, model=dataclasses.replace(micro.model, vocab=416))


def under(contract, **changes):
    return dataclasses.replace(contract, tokenizer=dataclasses.replace(contract.tokenizer, **changes))


def errors(found):
    return [finding.where for finding in found.findings if finding.severity == "error"]


def warnings(found):
    return [finding.found for finding in found.findings if finding.severity == "warning"]


def test_a_model_that_stands_alone_is_taken_as_it_is(tokenizer, micro, tmp_path):
    found = tokenizer(micro)
    assert found.findings == ()
    assert found.vocabulary == read_vocabulary(tmp_path / "tokenizer.model")


def test_rows_without_a_piece_are_filled_and_counted(tokenizer, wider):
    found = tokenizer(wider)
    assert len(found.vocabulary.pieces) == len(found.vocabulary.scores) == len(found.vocabulary.types) == 416
    assert found.vocabulary.pieces[399:402] == (found.vocabulary.pieces[399], "[PAD400]", "[PAD401]")
    assert found.vocabulary.types[400:] == (5,) * 16
    assert warnings(found) == ["400 pieces; 0 control and 0 user-defined pieces added, 16 rows filled with [PADn]"]
    assert not failed(found.findings)
    assert check_vocabulary(found.vocabulary, wider) == []


def test_added_tokens_take_their_rows(tokenizer, wider):
    added = {"402": {"content": "<|im_start|>", "special": True}, "403": {"content": "<▁tool>", "special": False}}
    found = tokenizer(wider, tokenizer_config={"added_tokens_decoder": added})
    assert found.vocabulary.pieces[400:405] == ("[PAD400]", "[PAD401]", "<|im_start|>", "< tool>", "[PAD404]")
    assert found.vocabulary.types[400:405] == (5, 5, 3, 4, 5)
    assert found.vocabulary.scores[402:404] == (-1000.0, -1000.0)
    assert warnings(found) == ["400 pieces; 1 control and 1 user-defined pieces added, 14 rows filled with [PADn]"]


def test_a_token_beyond_the_embedding_is_left_out_with_a_warning(tokenizer, wider):
    found = tokenizer(wider, added_tokens={"<pad>": 416})
    assert len(found.vocabulary.pieces) == 416
    assert "416" in warnings(found)
    assert not failed(found.findings)


def test_more_pieces_than_rows_are_an_error(tokenizer, micro):
    fewer = dataclasses.replace(micro, model=dataclasses.replace(micro.model, vocab=399))
    assert errors(tokenizer(fewer)) == ["tokenizer"]


def test_an_embedding_of_absurd_height_is_not_filled(tokenizer, micro):
    hostile = dataclasses.replace(micro, model=dataclasses.replace(micro.model, vocab=2**31 - 1))
    assert errors(tokenizer(hostile)) == ["tokenizer"]


def test_a_special_token_of_the_model_keeps_its_kind(tokenizer, micro):
    added = {str(number): {"content": text, "special": True} for number, text in enumerate(("<unk>", "<s>", "</s>"))}
    found = tokenizer(micro, tokenizer_config={"added_tokens_decoder": added})
    assert found.vocabulary.types[:3] == (2, 3, 3)
    assert found.findings == ()


def test_a_piece_becomes_special_when_the_settings_say_so(tokenizer, micro, tmp_path):
    piece = tokenizer(micro).vocabulary.pieces[300]
    found = tokenizer(micro, tokenizer_config={"added_tokens_decoder": {"300": {"content": piece, "special": True}}})
    assert found.vocabulary.types[300] == 3


def test_a_normal_piece_cannot_be_given_another_text(tokenizer, micro):
    added = {"300": {"content": "<|system|>", "special": True}}
    assert errors(tokenizer(micro, tokenizer_config={"added_tokens_decoder": added})) == ["added token 300"]


def test_a_placeholder_is_renamed(tokenizer, micro):
    model = trained(400, control_symbols=["<control_8>"])
    added = {"3": {"content": "[INST]", "special": True}}
    found = tokenizer(micro, model, tokenizer_config={"added_tokens_decoder": added})
    assert (found.vocabulary.pieces[3], found.vocabulary.types[3]) == ("[INST]", 3)
    assert errors(found) == []


def test_what_the_settings_say_of_bos_and_eos_must_be_what_the_contract_says(tokenizer, micro):
    found = tokenizer(micro, tokenizer_config={"add_bos_token": False, "add_eos_token": True})
    assert [f.where for f in check_vocabulary(found.vocabulary, micro)] == ["tokenizer.add_bos", "tokenizer.add_eos"]
    assert check_vocabulary(found.vocabulary, under(micro, add_bos=False, add_eos=True)) == []


def test_special_tokens_are_those_that_the_settings_name(tokenizer, wider):
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": {"401": {"content": "<|im_end|>", "special": True}}}
    found = tokenizer(wider, tokenizer_config=config)
    assert [f.where for f in check_vocabulary(found.vocabulary, wider)] == ["tokenizer.eos_id"]
    assert check_vocabulary(found.vocabulary, under(wider, eos_id=401)) == []


def test_a_model_without_eos_gets_it_from_the_settings(tokenizer, wider):
    model = trained(400, eos_id=-1)
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": {"401": {"content": "<|im_end|>", "special": True}}}
    assert errors(tokenizer(wider, model)) == ["tokenizer.eos_id"]
    assert errors(tokenizer(under(wider, eos_id=401), model, tokenizer_config=config)) == []


def test_a_token_with_a_role_is_special(tokenizer, wider):
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": {"401": {"content": "<|im_end|>"}}}
    found = tokenizer(under(wider, eos_id=401), tokenizer_config=config)
    assert errors(found) == []
    assert found.vocabulary.types[401] == 3


def test_eos_must_not_be_a_piece_that_text_becomes(tokenizer, micro):
    assert errors(tokenizer(under(micro, eos_id=300), trained(400, eos_id=-1))) == ["tokenizer.eos_id"]


def test_a_special_token_without_a_piece_is_found(tokenizer, micro):
    found = tokenizer(micro, special_tokens_map={"bos_token": "<|begin|>"})
    assert [(f.where, f.found) for f in check_vocabulary(found.vocabulary, micro)] == [("tokenizer.bos_id", "-1")]


def test_settings_can_take_the_dummy_prefix_away(tokenizer, micro):
    found = tokenizer(micro, tokenizer_config={"add_prefix_space": False})
    assert [f.where for f in check_vocabulary(found.vocabulary, micro)] == ["tokenizer.add_dummy_prefix"]
    found = tokenizer(under(micro, add_dummy_prefix=False))
    assert check_vocabulary(found.vocabulary, under(micro, add_dummy_prefix=False)) == []
    assert found.findings == ()


def test_settings_cannot_add_a_dummy_prefix_that_the_model_has_not(tokenizer, micro):
    model = trained(400, add_dummy_prefix=False)
    found = tokenizer(micro, model, tokenizer_config={"add_prefix_space": True})
    assert errors(found) == ["tokenizer.add_dummy_prefix"]


def test_a_model_without_bos_or_dummy_prefix_conforms_to_a_contract_that_says_so(tokenizer, micro):
    contract = under(micro, add_dummy_prefix=False, add_bos=False, bos_id=-1, eos_id=1)
    found = tokenizer(contract, trained(400, add_dummy_prefix=False, bos_id=-1, eos_id=1))
    assert found.findings == ()
    assert check_vocabulary(found.vocabulary, contract) == []


@pytest.mark.parametrize(
    "change",
    [{"treat_whitespace_as_suffix": True}, {"user_defined_symbols": ["Hello"]}, {"remove_extra_whitespaces": True}],
)
def test_a_model_that_a_runtime_reads_otherwise_is_found(tokenizer, micro, change):
    wheres = errors(tokenizer(micro, trained(400, **change)))
    assert any(where.startswith("merging") for where in wheres)
    assert len(wheres) > 1


def test_many_control_pieces_are_one_warning(tokenizer, micro):
    found = tokenizer(micro, trained(400, control_symbols=[f"[control_{number}]" for number in range(50)]))
    assert errors(found) == []
    assert [f.where for f in found.findings] == ["tokenizer piece 3 '[control_0]' and 49 more, up to 52"]


def test_a_unigram_model_is_refused_in_one_sentence(tokenizer, micro):
    with pytest.raises(CheckpointError, match="of type unigram; a contract can express bpe only"):
        tokenizer(micro, trained(320, model_type="unigram"))


def test_the_pieces_of_another_model_beside_it_are_found(tokenizer, micro, tmp_path):
    pieces = {piece: number for number, piece in enumerate(tokenizer(micro).vocabulary.pieces)}
    assert tokenizer(micro, tokenizer={"model": {"vocab": pieces}}).findings == ()
    swapped = pieces | {"<0x00>": 4, "<0x01>": 3}
    (finding,) = tokenizer(micro, tokenizer={"model": {"vocab": swapped}}).findings
    assert (finding.severity, finding.where) == ("error", "tokenizer.json")
    assert finding.hint.startswith("2 pieces differ")


def test_several_ends_of_a_generation_are_a_warning(tokenizer, micro):
    found = tokenizer(micro, generation_config={"eos_token_id": [2, 7]})
    assert [(f.severity, f.where) for f in found.findings] == [("warning", "generation_config.json")]


def test_the_provenance_covers_the_settings(tokenizer, micro):
    assert tokenizer(micro).vocabulary.provenance == ""
    found = tokenizer(micro, tokenizer_config={"chat_template": "{{ x }}"}).vocabulary
    assert len(found.provenance) == 64
    assert found.provenance != found.digest
    assert found.chat_template == "{{ x }}"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"IQ== 0\nIg== 1\n", "a tiktoken vocabulary"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_another_file_of_the_same_name_is_recognised(tmp_path, content, what):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"tokenizer\.model: is {what}, not a SentencePiece model; "):
        read_vocabulary(tmp_path / "tokenizer.model")
