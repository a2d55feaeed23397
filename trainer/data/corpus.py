"""Corpus: the documents of a source, one after another, in constant memory.

A text file is one document; a line of JSONL or a row of Parquet is one. A document of more than `max_chars`
characters is cut after the last line end before that limit (or at the limit) into several documents.
"""

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from conform.contract.bounded import open_regular
from conform.trainer.data.sources import Source
from conform.trainer.data.zstd_stream import ZstdStream
from conform.trainer.errors import DataError

__all__ = ["MAX_CHARS", "Document", "OnBad", "read_documents", "refuse"]

MAX_CHARS = 1 << 20
"""Default of the longest document, in characters."""

OnBad = Callable[[str, str], None]
"""Called with (where, what is wrong) for a document that cannot be used; returns to skip it or raises."""

_BLOCK = 1 << 20
_LONGEST_LINE = 64 << 20  # bytes of one line of JSONL; longer ones are not text but an attack on memory
_PARQUET_ROWS = 64


@dataclass(frozen=True, slots=True)
class Document:
    """Non-empty text without NUL; `position` is how far the source has been read, in its bytes on disk."""

    where: str
    text: str
    position: int


def refuse(where: str, what: str) -> None:
    """The default `OnBad`. Raises DataError."""
    raise DataError(f"{where}: {what}; repair it or leave it out with --on-bad skip")


def read_documents(
    source: Source, *, text_key: str = "text", max_chars: int = MAX_CHARS, on_bad: OnBad = refuse
) -> Iterator[Document]:
    """Every document of the source, in order.

    Empty documents are left out. Invalid UTF-8, NUL characters, lone surrogates and malformed lines go to `on_bad`.
    Raises InputError naming the file when it cannot be read, DataError naming the source when it cannot be
    decompressed or has no column `text_key`.
    """
    readers = {"text": _text_pieces, "jsonl": _json_lines, "parquet": _parquet_rows}
    for where, text, position in readers[source.kind](source, text_key, max_chars, on_bad):
        for piece in _cut(text, max_chars):
            if (problem := _problem(piece)) is not None:
                on_bad(where, problem)
            else:
                yield Document(where, piece, position)


_Texts = Iterator[tuple[str, str, int]]


def _problem(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL character, so it is binary and not text"
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        return "holds half a surrogate pair, which no UTF-8 can express"
    return None


def _cut(text: str, max_chars: int) -> Iterator[str]:
    start = 0
    while len(text) - start > max_chars:
        end = text.rfind("\n", start, start + max_chars) + 1 or start + max_chars
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _text_pieces(source: Source, _text_key: str, max_chars: int, on_bad: OnBad) -> _Texts:
    # A byte-order mark at the start of a file is an encoding signature, not text; everything else is kept as it is.
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    buffer = ""
    with _opened(source) as (stream, raw):
        while block := stream.read(_BLOCK):
            try:
                buffer += decoder.decode(block)
            except UnicodeDecodeError as error:
                on_bad(source.name, f"is not UTF-8 ({error.reason})")
                return
            *pieces, buffer = _cut(buffer, max_chars) if buffer else [""]
            for piece in pieces:
                yield source.name, piece, raw.tell()
        try:
            buffer += decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            on_bad(source.name, f"is not UTF-8 ({error.reason})")
            return
        yield source.name, buffer, raw.tell()


def _json_lines(source: Source, text_key: str, _max_chars: int, on_bad: OnBad) -> _Texts:
    with _opened(source) as (stream, raw):
        number = 0
        while line := stream.readline(_LONGEST_LINE + 1):
            number += 1
            where = f"{source.name}: line {number}"
            if len(line) > _LONGEST_LINE:
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_LONGEST_LINE)
                on_bad(where, f"is longer than {_LONGEST_LINE} bytes")
            elif line.strip():
                try:
                    yield where, _json_text(line, text_key), raw.tell()
                except _BadLineError as error:
                    on_bad(where, str(error))


class _BadLineError(Exception):
    """What is wrong with a line."""


def _json_text(line: bytes, text_key: str) -> str:
    try:
        record = json.loads(line)
    except UnicodeDecodeError as error:
        raise _BadLineError("is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise _BadLineError(f"is not JSON ({str(error)[:80]})") from error
    if not isinstance(record, dict):
        raise _BadLineError(f"expected a JSON object, found {type(record).__name__}")
    if text_key not in record:
        keys = ", ".join(sorted(key[:40] for key in record)[:10]) or "none"
        raise _BadLineError(f"has no key {text_key!r} (its keys: {keys}); name the right one with --text-key")
    text = record[text_key]
    if not isinstance(text, str):
        raise _BadLineError(f"expected a string under {text_key!r}, found {type(text).__name__}")
    return text


def _parquet_rows(source: Source, text_key: str, _max_chars: int, on_bad: OnBad) -> _Texts:
    import pyarrow
    from pyarrow import parquet

    try:
        # Opened here: pyarrow knows no file whose name is not UTF-8.
        with open_regular(source.path) as file, parquet.ParquetFile(file, pre_buffer=False) as table:
            _require_text_column(table.schema_arrow, text_key, source, pyarrow)
            row, rows = 0, max(1, table.metadata.num_rows)
            for batch in table.iter_batches(_PARQUET_ROWS, columns=[text_key], use_threads=False):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield f"{source.name}: row {row}", value or "", source.nbytes * row // rows
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{source.name}: not a readable Parquet file: {str(error).splitlines()[0][:200]}") from error


def _require_text_column(schema: Any, text_key: str, source: Source, pyarrow: Any) -> None:
    if text_key not in schema.names:
        columns = ", ".join(schema.names[:20])
        raise DataError(f"{source.name}: no column {text_key!r}; its columns are {columns}; name one with --text-key")
    kind = schema.field(text_key).type
    if pyarrow.types.is_dictionary(kind):
        kind = kind.value_type
    if kind not in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        raise DataError(f"{source.name}: column {text_key!r}: expected strings, found {kind}")


@contextmanager
def _opened(source: Source) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The decompressed stream and the raw file under it."""
    with open_regular(source.path) as raw:
        try:
            with _decompressed(source, raw) as stream:
                yield stream, raw
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(f"{source.name}: damaged gzip file: {error}") from error


@contextmanager
def _decompressed(source: Source, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if source.compression == ".gz":
        with gzip.GzipFile(fileobj=raw, mode="rb") as stream:
            yield io.BufferedReader(stream, _BLOCK)
    elif source.compression == ".zst":
        with _zstandard(source, raw) as stream:
            yield stream
    else:
        yield raw


@contextmanager
def _zstandard(source: Source, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    import zstandard

    try:
        yield io.BufferedReader(ZstdStream(raw), _BLOCK)
    except (EOFError, zstandard.ZstdError) as error:
        if "too much memory" in str(error):
            raise DataError(
                f"{source.name}: its zstd window is larger than 128 MiB, the most that is read; recompress it with "
                "`zstd --long=27` or a smaller window"
            ) from error
        raise DataError(f"{source.name}: damaged zstd file: {error}") from error
