"""Tokenizer report: how well a tokenizer fits its text, and whether any text does not survive it."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.core.tokenizer.agreement import lost_in_round_trip
from conform.core.tokenizer.hostile_text import HOSTILE_TEXTS
from conform.core.tokenizer.tokenizer import read_tokenizer, read_vocabulary

__all__ = ["TokenizerReport", "measure"]

_NORMAL = 1


@dataclass(frozen=True, slots=True)
class TokenizerReport:
    """Measured over `documents` texts: `fertility` is tokens per word (text between white space).

    `unused_pieces` are the normal pieces that no document uses. `round_trip_failures` are the hostile texts that do
    not come back as they went in.
    """

    sha256: str
    semantic_digest: str
    vocab: int
    documents: int
    skipped: int
    bytes: int
    words: int
    tokens: int
    fertility: float
    bytes_per_token: float
    unused_pieces: int
    round_trips: int
    round_trip_failures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields, for a JSON report."""
        return dataclasses.asdict(self)


def measure(model: Path, texts: Sequence[str], sha256: str, semantic_digest: str, skipped: int) -> TokenizerReport:
    """The report of the tokenizer in that file over those texts; `skipped` documents were left out of them."""
    import numpy as np
    import sentencepiece

    types = np.array(read_vocabulary(model).types)
    processor = sentencepiece.SentencePieceProcessor(model_proto=read_tokenizer(model))
    counts = np.zeros(len(types), np.int64)
    for text in texts:
        counts += np.bincount(np.array(processor.encode(text), np.int64), minlength=len(types))
    tokens, nbytes = int(counts.sum()), sum(len(text.encode()) for text in texts)
    words = sum(len(text.split()) for text in texts)
    return TokenizerReport(
        sha256=sha256,
        semantic_digest=semantic_digest,
        vocab=len(types),
        documents=len(texts),
        skipped=skipped,
        bytes=nbytes,
        words=words,
        tokens=tokens,
        fertility=tokens / max(1, words),
        bytes_per_token=nbytes / max(1, tokens),
        unused_pieces=int(((types == _NORMAL) & (counts == 0)).sum()),
        round_trips=len(HOSTILE_TEXTS),
        round_trip_failures=lost_in_round_trip(processor),
    )
