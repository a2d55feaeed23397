"""Recipe: how a SentencePiece model is trained so that a runtime that merges by score agrees with it."""

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conform.contract.toml import toml_text
from conform.core.files.atomic import staged, write_atomically
from conform.core.files.digest import file_sha256
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.trainer.data.corpus import MAX_CHARS, read_documents, refuse
from conform.trainer.data.sources import Source, find_sources, source_sha256
from conform.trainer.errors import DataError, TokenizerError
from conform.trainer.tokenizer.report import TokenizerReport, measure

__all__ = [
    "RECIPE",
    "TOKENIZER_NAME",
    "find_tokenizer",
    "semantic_digest",
    "tokenizer_sha256",
    "train_tokenizer",
]

TOKENIZER_NAME = "tokenizer.model"

RECIPE: Mapping[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "character_coverage": 0.99995,
    "split_digits": True,
    "normalization_rule_name": "identity",
    "add_dummy_prefix": True,
    "remove_extra_whitespaces": False,
    "allow_whitespace_only_pieces": True,
    "split_by_unicode_script": True,  # so that no two pieces spell <s> or </s>
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": 2,
    "pad_id": -1,
    # These two change nothing in the vocabulary but are embedded in the model, so they are fixed too.
    "num_threads": 1,
    "max_sentence_length": 1 << 20,
}
"""The options given to SentencePiece, all of them."""

_SEMANTIC_FACTS = (
    *("model", "byte_fallback", "unk_id", "bos_id", "eos_id", "pad_id", "pieces", "scores", "types"),
    *("normalization", "add_dummy_prefix", "remove_extra_whitespaces", "escape_whitespaces"),
)
_SENTENCE_CHARS = 1 << 14  # whole lines up to this many characters, so that line ends and indentation become pieces
_SAMPLE_CHARS = 1 << 28
_SMALLEST_VOCAB = 3 + 256 + 1  # the special pieces, the bytes and one character


def train_tokenizer(
    inputs: Sequence[str],
    vocab: int,
    out: Path,
    *,
    text_key: str = "text",
    suffixes: Iterable[str] = (),
    sample_chars: int = _SAMPLE_CHARS,
    skip_bad: bool = False,
) -> TokenizerReport:
    """Train on the inputs and write `tokenizer.model`, `recipe.toml` and `report.json` into the folder `out`.

    The model's bytes depend on the texts, their order and `vocab` only: not on paths, threads or the working folder.
    Of more than `sample_chars` characters, a part of the documents chosen by their hash is used.
    Raises TokenizerError when the vocabulary cannot be reached with this text, and InputError for input that cannot be
    read, or holds documents that cannot be used unless `skip_bad`.
    """
    if vocab < _SMALLEST_VOCAB:
        raise TokenizerError(
            f"a vocabulary of {vocab} is too small; the byte and special pieces alone need 259, "
            f"so it has at least {_SMALLEST_VOCAB}"
        )
    if sample_chars < 1:
        raise TokenizerError(f"--sample-chars {sample_chars}: expected a positive number")
    if (out / TOKENIZER_NAME).exists():
        raise TokenizerError(f"{out / TOKENIZER_NAME}: exists; choose another folder or delete it")
    sources = find_sources(inputs, suffixes)
    digests = [source_sha256(source) for source in sources]

    skipped: set[str] = set()

    def on_bad(where: str, what: str) -> None:
        if not skip_bad:
            refuse(where, what)
        skipped.add(where)

    def texts() -> Iterator[str]:
        for source in sources:
            for document in read_documents(source, text_key=text_key, max_chars=MAX_CHARS, on_bad=on_bad):
                yield document.text

    sample = _sample(texts, sample_chars)
    content = _train(sample, vocab)
    _require_unchanged(sources, digests)
    _make_folder(out)
    # Under its name only when the other files are there: an interrupted command can then simply be repeated.
    with _disk_errors(out), staged(out / TOKENIZER_NAME, content) as unfinished:
        report = measure(unfinished, sample, tokenizer_sha256(unfinished), semantic_digest(unfinished), len(skipped))
        write_atomically(out / "recipe.toml", _recipe_toml(sources, digests, vocab, text_key, sample_chars).encode())
        text = json.dumps(report.to_json(), indent=1, sort_keys=True) + "\n"
        write_atomically(out / "report.json", text.encode())
    return report


def find_tokenizer(path: Path) -> Path:
    """The model file that a path means: itself, or tokenizer.model inside a folder. Raises TokenizerError."""
    model = path / TOKENIZER_NAME if path.is_dir() else path
    if not model.is_file():
        raise TokenizerError(f"{model}: no such tokenizer; train one with `conform tokenizer train`")
    if model.suffix == ".json":
        raise TokenizerError(f"{model}: conform trains with SentencePiece models only; give a tokenizer.model")
    return model


def tokenizer_sha256(path: Path) -> str:
    """sha256 of the bytes of the model file that the path means."""
    return file_sha256(find_tokenizer(path))


def semantic_digest(path: Path) -> str:
    """sha256 of what decides the ids: pieces, scores, types, special ids, normaliser. Equal digests, equal ids.

    Unlike the hash of the file it does not change with the options that SentencePiece merely notes down.
    """
    vocabulary = read_vocabulary(find_tokenizer(path))
    # Identity needs no table; of any other way to prepare text the whole file stands for what it holds.
    plain = not vocabulary.whitespace_as_suffix and not vocabulary.rewrites_characters
    table = "" if vocabulary.normalization == "identity" and plain else vocabulary.digest
    canonical = json.dumps([table, *(getattr(vocabulary, fact) for fact in _SEMANTIC_FACTS)], separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _sample(texts: Callable[[], Iterator[str]], most: int) -> list[str]:
    """All texts, or those whose hash is small enough that about `most` characters remain. In order, either way."""
    total = sum(map(len, texts()))
    if not total:
        raise DataError("the inputs hold no text; expected at least one document that is not empty")
    share = min(1.0, most / total)
    sample = [text for text in texts() if share == 1.0 or _fraction(text) < share]
    if not sample:
        raise TokenizerError(
            f"--sample-chars {most}: no document is that short; give a larger number, the text has {total} characters"
        )
    return sample


def _fraction(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        start = 0
        while start < len(text):
            end = start + _SENTENCE_CHARS
            if end < len(text):
                end = text.rfind("\n", start, end) + 1 or end
            yield text[start:end]
            start = end


def _train(texts: Sequence[str], vocab: int) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts), model_writer=model, vocab_size=vocab, minloglevel=2, **RECIPE
        )
    except (RuntimeError, OSError) as error:
        raise TokenizerError(_why(str(error), vocab)) from error
    return model.getvalue()


def _why(message: str, vocab: int) -> str:
    if found := re.search(r"Please set it to a value <= (\d+)", message):
        return (
            f"a vocabulary of {vocab} cannot be reached with this text: the largest possible is {found[1]}; "
            f"give more text, or --vocab {found[1]} or less"
        )
    if found := re.search(r"smaller than required_chars\. \d+ vs (\d+)", message):
        return f"a vocabulary of {vocab} cannot hold the characters of this text: the smallest possible is {found[1]}"
    if "sentences_.empty()" in message:
        return "the inputs hold no text that a tokenizer can be trained on; expected more than white space"
    return f"SentencePiece cannot train on this text: {message[:300]}"


def _require_unchanged(sources: Sequence[Source], digests: Sequence[str]) -> None:
    for source, digest in zip(sources, digests, strict=True):
        if source_sha256(source) != digest:
            raise TokenizerError(
                f"{source.path}: changed while the tokenizer was trained; try again when nothing writes it any more"
            )


def _recipe_toml(
    sources: Sequence[Source], digests: Sequence[str], vocab: int, text_key: str, sample_chars: int
) -> str:
    import sentencepiece

    options = {"sentencepiece": sentencepiece.__version__, "vocab_size": vocab, **RECIPE}
    files = [
        {"name": source.name, "bytes": source.nbytes, "sha256": digest}
        for source, digest in zip(sources, digests, strict=True)
    ]
    corpus = {"text_key": text_key, "sample_chars": sample_chars, "sources": files}
    return "# How tokenizer.model was made.\n" + toml_text({"recipe": options, "corpus": corpus})


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise TokenizerError(f"{folder}: is a file, but the tokenizer needs a folder; choose another name") from error
    except OSError as error:
        raise TokenizerError(f"{folder}: cannot be made: {error.strerror}") from error


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TokenizerError(f"{folder}: cannot be written: {error.strerror}") from error
