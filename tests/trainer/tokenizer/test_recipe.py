import io
import json
import os
import shutil
import subprocess
import sys
import tomllib

import pytest
import sentencepiece

from conform.trainer.errors import DataError, TokenizerError
from conform.trainer.tokenizer import recipe as tokenizer
from conform.trainer.tokenizer.recipe import RECIPE, find_tokenizer, semantic_digest, tokenizer_sha256, train_tokenizer


def test_the_model_follows_the_recipe(tokenizer_folder):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_folder / "tokenizer.model"))
    assert processor.get_piece_size() == 512
    assert [processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id()] == [0, 1, 2, -1]
    assert processor.id_to_piece([3, 258]) == ["<0x00>", "<0xFF>"]
    assert processor.decode(processor.encode(" a\t\n  b  \x00é中👍")) == " a\t\n  b  \x00é中👍"


def test_line_ends_and_indentation_become_pieces(tokenizer_folder):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_folder / "tokenizer.model"))
    pieces = {processor.id_to_piece(number) for number in range(512)}
    assert "\u2581" * 4 in pieces
    assert any(piece.endswith(":\n") for piece in pieces)


def test_the_bytes_do_not_depend_on_path_folder_or_threads(tmp_path, text_folder, tokenizer_folder):
    copy = tmp_path / text_folder.name
    shutil.copytree(text_folder, copy)
    program = f"""
from pathlib import Path
from conform.trainer.tokenizer.recipe import train_tokenizer
train_tokenizer(["{text_folder.name}"], 512, Path("out"))
"""
    subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, check=True, env={**os.environ, "OMP_NUM_THREADS": "3"}
    )
    for name in ("tokenizer.model", "recipe.toml", "report.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tokenizer_folder / name).read_bytes()


def test_the_recipe_file_says_how_it_was_made(tokenizer_folder, text_folder):
    recipe = tomllib.loads((tokenizer_folder / "recipe.toml").read_text())
    assert recipe["recipe"] == {"sentencepiece": sentencepiece.__version__, "vocab_size": 512, **RECIPE}
    assert len(recipe["corpus"]["sources"]) == len(list(text_folder.iterdir()))
    assert str(text_folder.parent) not in (tokenizer_folder / "recipe.toml").read_text()


def test_the_report_measures_the_text(tokenizer_folder, text_folder):
    report = json.loads((tokenizer_folder / "report.json").read_text())
    files = sorted(text_folder.iterdir())
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_folder / "tokenizer.model"))
    ids = [processor.encode(path.read_text()) for path in files]
    tokens = sum(map(len, ids))
    words = sum(len(path.read_text().split()) for path in files)
    unused = set(range(259, 512)) - {number for line in ids for number in line}
    assert report["documents"] == len(files)
    assert report["tokens"] == tokens
    assert report["fertility"] == pytest.approx(tokens / words)
    assert report["bytes_per_token"] == pytest.approx(sum(path.stat().st_size for path in files) / tokens)
    assert report["unused_pieces"] == len(unused)
    assert report["round_trip_failures"] == []
    assert report["sha256"] == tokenizer_sha256(tokenizer_folder)


def test_the_semantic_digest_sees_what_decides_ids_and_nothing_else(tmp_path, text_folder, monkeypatch):
    digests, hashes = {}, {}
    for name, change in {"a": {}, "threads": {"num_threads": 2}, "digits": {"split_digits": False}}.items():
        monkeypatch.setattr(tokenizer, "RECIPE", {**RECIPE, **change})
        train_tokenizer([str(text_folder)], 512, tmp_path / name)
        digests[name], hashes[name] = semantic_digest(tmp_path / name), tokenizer_sha256(tmp_path / name)
    train_tokenizer([str(text_folder)], 511, tmp_path / "smaller")
    assert hashes["a"] != hashes["threads"]
    assert digests["a"] == digests["threads"]
    assert digests["a"] != semantic_digest(tmp_path / "smaller")


def test_a_sample_is_chosen_by_hash_and_repeatable(tmp_path, text_folder):
    first, second = (
        train_tokenizer([str(text_folder)], 400, tmp_path / name, sample_chars=20_000) for name in ("a", "b")
    )
    assert first == second
    assert 12_000 < first.bytes < 28_000


def test_a_text_that_is_too_small_names_the_largest_vocabulary(tmp_path, text_folder):
    with pytest.raises(TokenizerError, match=r"vocabulary of 32000 .* the largest possible is (\d+);") as caught:
        train_tokenizer([str(text_folder)], 32000, tmp_path / "a")
    largest = int(str(caught.value).split("largest possible is ")[1].split(";")[0])
    assert train_tokenizer([str(text_folder)], largest, tmp_path / "b").vocab == largest
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(("vocab", "message"), [(259, "too small"), (-1, "too small"), (300, "smallest possible is")])
def test_a_vocabulary_that_is_too_small_is_refused(tmp_path, text_folder, vocab, message):
    with pytest.raises(TokenizerError, match=message):
        train_tokenizer([str(text_folder)], vocab, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_no_text_is_refused(tmp_path, text):
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises((TokenizerError, DataError), match=r"no text|cannot be reached with this text"):
        train_tokenizer([str(tmp_path / "a.txt")], 300, tmp_path / "out")


def test_bad_documents_are_refused_by_name_or_counted(tmp_path, text_folder):
    (tmp_path / "bad.txt").write_bytes(b"\xff")
    inputs = [str(text_folder), str(tmp_path / "bad.txt")]
    with pytest.raises(DataError, match=r"bad\.txt: is not UTF-8"):
        train_tokenizer(inputs, 400, tmp_path / "out")
    report = train_tokenizer(inputs, 400, tmp_path / "out", skip_bad=True)
    assert (report.documents, report.skipped) == (len(list(text_folder.iterdir())), 1)


def test_an_existing_tokenizer_is_not_overwritten(tokenizer_folder, text_folder):
    with pytest.raises(TokenizerError, match="exists; choose another folder"):
        train_tokenizer([str(text_folder)], 300, tokenizer_folder)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path, text_folder):
    (tmp_path / "file").touch()
    with pytest.raises(TokenizerError, match="cannot be made"):
        train_tokenizer([str(text_folder)], 400, tmp_path / "file" / "out")


def test_a_folder_that_is_a_file_is_refused(tmp_path, text_folder):
    (tmp_path / "file").touch()
    with pytest.raises(TokenizerError, match="file: is a file, but the tokenizer needs a folder"):
        train_tokenizer([str(text_folder)], 400, tmp_path / "file")


@pytest.mark.parametrize(("most", "message"), [(0, "expected a positive number"), (1, "no document is that short")])
def test_a_sample_that_is_too_small_is_refused(tmp_path, text_folder, most, message):
    with pytest.raises(TokenizerError, match=rf"--sample-chars {most}: {message}"):
        train_tokenizer([str(text_folder)], 400, tmp_path / "out", sample_chars=most)


def test_a_text_that_changes_meanwhile_is_noticed(tmp_path, text_folder, monkeypatch):
    shutil.copytree(text_folder, tmp_path / "text")
    last = max((tmp_path / "text").iterdir())
    train = tokenizer._train

    def rewriting(sample, vocab):
        last.write_bytes(last.read_bytes()[::-1])
        return train(sample, vocab)

    monkeypatch.setattr(tokenizer, "_train", rewriting)
    with pytest.raises(TokenizerError, match=rf"{last.name}: changed while the tokenizer was trained"):
        train_tokenizer([str(tmp_path / "text")], 400, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupted_command_can_be_repeated(tmp_path, text_folder, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tokenizer, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_tokenizer([str(text_folder)], 400, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.model").exists()
    train_tokenizer([str(text_folder)], 400, tmp_path / "out")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {"tokenizer.model", "recipe.toml", "report.json"}


def test_a_tokenizer_is_found_by_file_and_by_folder(tokenizer_folder, tmp_path):
    model = tokenizer_folder / "tokenizer.model"
    assert find_tokenizer(model) == find_tokenizer(tokenizer_folder) == model
    with pytest.raises(TokenizerError, match="no such tokenizer"):
        find_tokenizer(tmp_path)


def test_sentences_are_whole_lines_and_lose_nothing():
    text = "".join(f"line {number}\n" for number in range(10_000)) + "x" * 50_000
    sentences = list(tokenizer._sentences([text, "", "short"]))
    assert "".join(sentences) == text + "short"
    assert max(map(len, sentences)) <= tokenizer._SENTENCE_CHARS
    assert sentences[0].endswith("\n")


def test_sentencepiece_is_told_everything_by_the_recipe(text_folder, tokenizer_folder):
    model = io.BytesIO()
    texts = [path.read_text() for path in sorted(text_folder.iterdir())]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, vocab_size=512, minloglevel=2, **RECIPE
    )
    assert model.getvalue() == (tokenizer_folder / "tokenizer.model").read_bytes()
