import contextlib
import io
import os
from pathlib import Path

import pytest
import sentencepiece

from conform.contract.finding import failed
from conform.contract.load import load_contract
from conform.core.errors import ConformError
from conform.core.tokenizer.score_merge import ScoreMerge
from conform.trainer.tokenizer.check import check_tokenizer
from conform.trainer.tokenizer.recipe import RECIPE, train_tokenizer


@pytest.fixture(scope="module")
def train(tmp_path_factory, text_folder):
    """Train with the recipe changed; the model's path."""

    def trained(**changes):
        model = io.BytesIO()
        texts = [path.read_text() for path in sorted(text_folder.iterdir())]
        options = {**RECIPE, "vocab_size": 512, "minloglevel": 2, **changes}
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **options)
        path = tmp_path_factory.mktemp("changed") / "tokenizer.model"
        path.write_bytes(model.getvalue())
        return path

    return trained


def errors(path, contract=None):
    return {finding.where for finding in check_tokenizer(path, contract) if finding.severity == "error"}


def test_our_recipe_conforms(tokenizer_folder):
    assert check_tokenizer(tokenizer_folder) == []


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"model_type": "unigram", "vocab_size": 380}, "tokenizer.model_type"),
        ({"byte_fallback": False}, "tokenizer.byte_fallback"),
        ({"normalization_rule_name": "nmt_nfkc"}, "tokenizer.normalization"),
        ({"add_dummy_prefix": False}, "tokenizer.add_dummy_prefix"),
        ({"remove_extra_whitespaces": True}, "tokenizer.remove_extra_whitespaces"),
        ({"user_defined_symbols": ["<pad>"]}, "tokenizer piece 3 '<pad>'"),
        ({"control_symbols": ["<mask>"]}, "tokenizer piece 3 '<mask>'"),
        ({"pad_id": 3}, "tokenizer piece 3 '<pad>'"),
        ({"bos_id": -1}, "tokenizer.bos_id"),
        ({"eos_id": -1}, "tokenizer.eos_id"),
    ],
)
def test_a_change_of_the_recipe_is_found(train, changes, where):
    assert where in errors(train(**changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram", "vocab_size": 380},
        {"normalization_rule_name": "nmt_nfkc"},
        {"add_dummy_prefix": False},
        {"remove_extra_whitespaces": True},
        {"treat_whitespace_as_suffix": True},
        {"user_defined_symbols": ["Hello"]},
    ],
)
def test_merging_by_score_disagrees_where_the_recipe_matters(train, changes):
    assert any(where.startswith("merging") for where in errors(train(**changes)))


@pytest.mark.parametrize("changes", [{"byte_fallback": False}, {"normalization_rule_name": "nmt_nfkc"}])
def test_text_that_is_lost_is_found(train, changes):
    assert "round trip" in errors(train(**changes))


def test_disagreement_is_found_whatever_the_flags_say(tokenizer_folder, monkeypatch):
    monkeypatch.setattr(ScoreMerge, "encode", lambda self, text: [0])
    assert any(where.startswith("merging") for where in errors(tokenizer_folder))


def test_a_special_piece_that_merging_could_spell_is_a_warning(tmp_path):
    model = io.BytesIO()
    options = {**RECIPE, "vocab_size": 270, "minloglevel": 2, "split_by_unicode_script": False}
    texts = ["a<sb<sc<sd<s" * 50]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=model, **options)
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    findings = check_tokenizer(tmp_path)
    assert [finding.severity for finding in findings] == ["warning"] * len(findings)
    assert "tokenizer piece 1 '<s>'" in {finding.where for finding in findings}
    assert not failed(findings)


def test_a_contract_adds_its_own_demands(tokenizer_folder):
    assert errors(tokenizer_folder, load_contract("nano")) == {"tokenizer"}


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a\x05\x0a\x03abc", b"\xff" * 100])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(ConformError, match=r"tokenizer\.model: "):
        check_tokenizer(tmp_path)


def test_a_tokenizer_json_is_not_what_training_needs(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConformError, match=r"trains with SentencePiece models only; give a tokenizer\.model"):
        check_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("place", range(0, 9000, 450))
def test_a_damaged_model_is_refused_or_found_and_never_crashes(tmp_path, tokenizer_folder, place):
    content = bytearray((tokenizer_folder / "tokenizer.model").read_bytes())
    content[place % len(content)] ^= 0xFF
    (tmp_path / "tokenizer.model").write_bytes(content)
    with contextlib.suppress(ConformError):
        check_tokenizer(tmp_path)


def test_a_truncated_model_is_refused(tmp_path, tokenizer_folder):
    content = (tokenizer_folder / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(content[: len(content) // 2])
    with pytest.raises(ConformError):
        check_tokenizer(tmp_path)


def test_a_folder_name_need_not_be_utf8(tmp_path, text_folder):
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    train_tokenizer([str(text_folder)], 400, out)
    assert check_tokenizer(out) == []
