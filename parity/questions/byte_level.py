"""Byte-level BPE as the library `tokenizers` runs it: from a tokenizer.json, or from the keys of a GGUF file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.core.errors import CheckpointError, GGUFError
from conform.core.gguf.read import GGUFFile
from conform.core.tokenizer.pre import PreTokenizer, pre_tokenizer_named
from conform.core.tokenizer.vocabulary import PIECE_TYPES

__all__ = ["LibraryPieces", "definition_of_file", "open_library", "pre_tokenizer_of"]

_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


@dataclass(frozen=True, slots=True)
class LibraryPieces:
    """A tokenizer of the library. Text that looks like a special token is ordinary text to it."""

    library: Any
    where: str

    def encode(self, text: str) -> Sequence[int]:
        """The ids of the text alone. Raises CheckpointError when its pattern aborts the library."""
        try:
            ids: Sequence[int] = self.library.encode(text, add_special_tokens=False).ids
        except BaseException as error:
            # Rust panics where a pattern needs too much backtracking; Python sees no Exception then.
            if type(error).__name__ != "PanicException":
                raise
            raise CheckpointError(f"{self.where}: its pre-tokenizer fails on the text {text[:40]!r}") from error
        return ids


def open_library(definition: str, where: str) -> LibraryPieces:
    """The tokenizer that a tokenizer.json describes. Raises CheckpointError when the library cannot read it."""
    from tokenizers import Tokenizer

    try:
        library = Tokenizer.from_str(definition)
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"{where}: the library tokenizers cannot read it: {error!s:.100}") from error
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return LibraryPieces(library, where)


def pre_tokenizer_of(metadata: Mapping[str, Any]) -> PreTokenizer | None:
    """How a GGUF file's own keys cut text into words; None for another kind of tokenizer and an unknown name."""
    if metadata.get("tokenizer.ggml.model") != "gpt2":
        return None
    return pre_tokenizer_named(str(metadata.get("tokenizer.ggml.pre")))


def definition_of_file(file: GGUFFile, pre: PreTokenizer) -> str:
    """The tokenizer.json that the file's own tokens, kinds and merges stand for.

    Raises GGUFError naming the file when they are not lists of equal lengths.
    """
    tokens, kinds, merges = (_items(file, part) for part in ("tokens", "token_type", "merges"))
    if len(tokens) != len(kinds):
        raise _unusable(file.path, f"{len(tokens)} tokens and {len(kinds)} token types")
    if strange := [kind for kind in kinds if kind not in PIECE_TYPES]:
        raise _unusable(file.path, f"the token type {strange[0]!r}")
    numbered = list(enumerate(zip(tokens, kinds, strict=True)))
    added = [
        _FLAGS | {"id": number, "content": token, "special": kind == _CONTROL}
        for number, (token, kind) in numbered
        if kind in (_CONTROL, _USER_DEFINED)
    ]
    model = {
        "type": "BPE",
        "vocab": {token: number for number, (token, kind) in numbered if kind != _UNUSED},
        "merges": [str(merge).split(" ") for merge in merges],
        "ignore_merges": pre.ignore_merges,
    }
    decoder = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    return json.dumps({"added_tokens": added, "pre_tokenizer": pre.definition, "decoder": decoder, "model": model})


def _items(file: GGUFFile, part: str) -> list[Any]:
    items = file.metadata.get(f"tokenizer.ggml.{part}")
    if not isinstance(items, list):
        raise _unusable(file.path, f"{part} is not a list")
    return items


def _unusable(path: Path, what: str) -> GGUFError:
    return GGUFError(f"{path}: its tokenizer cannot be used: tokenizer.ggml.* has {what}")
