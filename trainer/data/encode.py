"""Encode: batches of documents → token ids of both splits, in threads.

Threads, not processes: SentencePiece encodes and hashlib hashes with the interpreter's lock released, so threads use
all cores, and nothing travels between processes, no process is left over and none starts slowly.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from conform.trainer.data.manifest import SPLITS, SplitName
from conform.trainer.data.shards import Tokens

__all__ = ["Encoded", "Encoder", "in_order", "split_of"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One split's part of a batch."""

    tokens: Tokens
    documents: int
    bytes: int


def split_of(text: bytes, held_out: float) -> SplitName:
    """The split of a document: a function of its text only, so that equal documents never stand on both sides."""
    fraction = int.from_bytes(hashlib.sha256(text).digest()[:8], "big") / 2**64
    return "held_out" if fraction < held_out else "train"


@dataclass(frozen=True, slots=True)
class Encoder:
    """Encodes documents as `bos_id`, their ids, `eos_id`, by the bytes of a model; callable from several threads."""

    model: bytes
    dtype: str
    bos_id: int
    eos_id: int
    held_out: float
    _processor: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import sentencepiece

        object.__setattr__(self, "_processor", sentencepiece.SentencePieceProcessor(model_proto=self.model))

    def __call__(self, texts: Sequence[str]) -> dict[SplitName, Encoded]:
        """The tokens of both splits, documents in the order given."""
        parts: dict[SplitName, list[Tokens]] = {name: [np.empty(0, self.dtype)] for name in SPLITS}
        documents, nbytes = Counter[SplitName](), Counter[SplitName]()
        bos, eos = np.array([self.bos_id], self.dtype), np.array([self.eos_id], self.dtype)
        for text in texts:
            encoded = text.encode()
            split = split_of(encoded, self.held_out)
            ids = self._processor.encode(text, return_type="numpy").astype(self.dtype)
            parts[split] += [bos, ids, eos]
            documents[split] += 1
            nbytes[split] += len(encoded)
        return {name: Encoded(np.concatenate(parts[name]), documents[name], nbytes[name]) for name in SPLITS}


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[tuple[_Item, _Result]]:
    """Each item with its result, in the order of the items, at most 2 × workers of them in memory."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="encode")
    waiting: deque[tuple[_Item, Future[_Result]]] = deque()
    try:
        for item in items:
            waiting.append((item, pool.submit(work, item)))
            if len(waiting) >= 2 * workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
