import itertools
import json
import sys

import pytest

from conform.core.tokenizer import pre_words
from conform.core.tokenizer.pre import PRE_TOKENIZERS


def test_no_two_known_pre_tokenizers_make_the_same_words_of_the_probes():
    digests = {name: pre_words.words_digest(json.dumps(known.definition)) for name, known in PRE_TOKENIZERS.items()}
    same = [pair for pair in itertools.combinations(digests, 2) if digests[pair[0]] == digests[pair[1]]]
    assert same == [("llama-bpe", "dbrx")]  # which differ in ignore_merges


def test_a_strangers_definition_has_the_same_digest_as_when_it_is_trusted():
    definition = json.dumps(PRE_TOKENIZERS["smollm"].definition)
    assert pre_words.strange_words_digest(definition) == pre_words.words_digest(definition)


def test_a_pattern_that_takes_for_ever_is_given_up(monkeypatch):
    monkeypatch.setattr(pre_words, "_SECONDS", 0.01)
    with pytest.raises(ValueError, match=r"did not cut the probe corpus into words in 0\.01 seconds"):
        pre_words.strange_words_digest(json.dumps(PRE_TOKENIZERS["qwen2"].definition) + " ")


def test_nothing_in_the_current_folder_is_imported(tmp_path, monkeypatch):
    (tmp_path / "conform.py").write_text("raise SystemExit(3)")
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert pre_words.strange_words_digest(json.dumps(PRE_TOKENIZERS["gpt-2"].definition) + "  ")


def test_a_library_that_is_not_installed_is_not_called_aborted(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ModuleNotFoundError, match="tokenizers"):
        pre_words.strange_words_digest(json.dumps(PRE_TOKENIZERS["gpt-2"].definition) + "   ")
