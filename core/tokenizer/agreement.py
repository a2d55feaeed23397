"""Agreement: whether a runtime that merges by score, without SentencePiece, gives the ids that SentencePiece gives."""

from collections.abc import Iterator
from typing import Any

from conform.contract.finding import Finding
from conform.core.errors import CheckpointError
from conform.core.tokenizer.hostile_text import HOSTILE_TEXTS, RESERVED_TEXTS
from conform.core.tokenizer.score_merge import ScoreMerge
from conform.core.tokenizer.vocabulary import Vocabulary

__all__ = ["check_agreement", "load_sentencepiece", "lost_in_round_trip"]


def load_sentencepiece(content: bytes, where: object) -> Any:
    """SentencePiece's own processor of a model file. Raises CheckpointError when SentencePiece cannot load it."""
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=content)
    except (RuntimeError, UnicodeDecodeError) as error:  # it may quote what is not UTF-8
        raise CheckpointError(f"{where}: SentencePiece cannot load it: {str(error)[:200]!r}") from error


def check_agreement(vocabulary: Vocabulary, processor: Any, dummy_prefix: bool) -> Iterator[Finding]:
    """The first hostile text that merging by score encodes otherwise, and the first that is lost in a round trip.

    `dummy_prefix` says whether the runtime puts a space before every text. Raises CheckpointError for a byte piece that
    names no byte.
    """
    merge = ScoreMerge(vocabulary, dummy_prefix)
    texts = (*HOSTILE_TEXTS, *RESERVED_TEXTS)
    differing = [text for text in texts if merge.encode(text) != processor.encode(text)]
    if differing:
        ids = [str(encode(differing[0])[:12]) for encode in (processor.encode, merge.encode)]
        hint = (
            f"{len(differing)} of {len(texts)} hostile texts differ; the runtime's tokens would not be SentencePiece's"
        )
        yield Finding("error", f"merging {differing[0][:40]!r}", ids[0], ids[1], hint)
    yield from _check_round_trip(processor)


def lost_in_round_trip(processor: Any) -> tuple[str, ...]:
    """The hostile texts that decode(encode(text)) does not give back."""
    return tuple(text for text in HOSTILE_TEXTS if processor.decode(processor.encode(text)) != text)


def _check_round_trip(processor: Any) -> Iterator[Finding]:
    if lost := lost_in_round_trip(processor):
        found = repr(processor.decode(processor.encode(lost[0])))[:60]
        hint = f"{len(lost)} of {len(HOSTILE_TEXTS)} hostile texts are changed by encoding and decoding"
        yield Finding("error", "round trip", repr(lost[0])[:60], found, hint)
