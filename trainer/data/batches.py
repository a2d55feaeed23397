"""Batches: documents of all sources, in order, a few at a time, from any place on."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conform.trainer.data.corpus import read_documents, refuse
from conform.trainer.data.manifest import Recipe
from conform.trainer.data.sources import Source

__all__ = ["Batch", "Place", "read_batches"]

_BATCH_CHARS = 1 << 19  # decides memory and balance between threads, never bytes


@dataclass(frozen=True, slots=True)
class Place:
    """The next document to read: number `document` (of those that are usable) of source number `source`."""

    source: int
    document: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive documents, the place after them, the bytes of sources read so far, and what was left out."""

    texts: tuple[str, ...]
    then: Place
    position: int
    skipped: Counter[str]


def read_batches(sources: Sequence[Source], recipe: Recipe, start: Place, *, skip_bad: bool) -> Iterator[Batch]:
    """The documents from `start` on; the last batch may be empty.

    Raises DataError for a document that cannot be used, unless `skip_bad`.
    """
    reader = _Reader(sources, recipe, start, skip_bad)
    texts: list[str] = []
    chars = 0
    for text in reader.texts():
        texts.append(text)
        chars += len(text)
        if chars >= _BATCH_CHARS:
            yield reader.batch(texts)
            texts, chars = [], 0
    yield reader.batch(texts)


class _Reader:
    def __init__(self, sources: Sequence[Source], recipe: Recipe, start: Place, skip_bad: bool) -> None:
        self._sources, self._recipe, self._start, self._skip_bad = sources, recipe, start, skip_bad
        self._then = start
        self._position = sum(source.nbytes for source in sources[: start.source])
        self._skipped: Counter[str] = Counter()

    def texts(self) -> Iterator[str]:
        for number in range(self._start.source, len(self._sources)):
            yield from self._source_texts(number)
            self._then = Place(number + 1, 0)

    def batch(self, texts: Sequence[str]) -> Batch:
        skipped, self._skipped = self._skipped, Counter()
        return Batch(tuple(texts), self._then, self._position, skipped)

    def _source_texts(self, number: int) -> Iterator[str]:
        source, before = self._sources[number], self._position
        already = self._start.document if number == self._start.source else 0
        self._then = Place(number, 0)
        documents = read_documents(
            source, text_key=self._recipe.text_key, max_chars=self._recipe.max_chars, on_bad=self._on_bad
        )
        for read, document in enumerate(documents, start=1):
            self._then = Place(number, read)
            self._position = before + document.position
            if read > already:
                yield document.text
        self._position = before + source.nbytes

    def _on_bad(self, where: str, what: str) -> None:
        if not self._skip_bad:
            refuse(where, what)
        # What stands before the start was counted when it was first read.
        if self._then.source > self._start.source or self._then.document >= self._start.document:
            self._skipped[what.split(" (", maxsplit=1)[0]] += 1
