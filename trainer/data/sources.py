"""Sources: which files an input means, in an order that is the same on every machine."""

import os
import stat
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conform.contract.bounded import open_regular
from conform.core.files.digest import hash_rest
from conform.trainer.errors import DataError

__all__ = ["NAMED_CORPORA", "TEXT_SUFFIXES", "Kind", "Source", "find_sources", "source_sha256"]

Kind = Literal["text", "jsonl", "parquet"]

TEXT_SUFFIXES = (".txt", ".text", ".md", ".rst", ".py")
"""What counts as text inside a folder; `--suffix` adds to it. A file named by itself may have any other suffix."""

_KINDS: dict[str, Kind] = {".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}
_COMPRESSIONS = (".gz", ".zst")

# Tests are repetitive and partly deliberate garbage; the codecs are a hundred copies of one generated table, which
# would make held-out text look easy; _sysconfigdata differs from machine to machine.
_NOT_STDLIB_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "__pycache__"}
_NOT_STDLIB_PREFIX = "_sysconfigdata"


@dataclass(frozen=True, slots=True)
class Source:
    """One file of text: `name` is stable and holds no absolute path; `compression` is "", ".gz" or ".zst"."""

    name: str
    path: Path
    kind: Kind
    compression: str
    nbytes: int


def find_sources(inputs: Sequence[str], suffixes: Iterable[str] = ()) -> tuple[Source, ...]:
    """The files that the inputs mean: a named corpus, a file, or a folder (recursively, sorted by name).

    In folders, hidden entries are left out, links to folders are not followed, and only text suffixes (plus
    `suffixes`), .jsonl, .ndjson and .parquet count, each also as .gz or .zst. Raises DataError naming the input that
    is missing, holds no text, or is not a regular file.
    """
    if not inputs:
        raise DataError("no input: expected at least one file, folder or named corpus")
    accepted = (*TEXT_SUFFIXES, *suffixes)
    return tuple(source for given in inputs for source in _sources_of(given, accepted))


def source_sha256(source: Source) -> str:
    """sha256 of the file's bytes as they lie on disk.

    Raises InputError when it cannot be read, DataError when it is not of the size that was found before.
    """
    with open_regular(source.path) as file:
        digest = hash_rest(file).hexdigest()
        nbytes = file.tell()
    if nbytes != source.nbytes:
        raise DataError(f"{source.path}: expected {source.nbytes} bytes, found {nbytes}; it changes while it is read")
    return digest


def python_stdlib(root: Path | None = None) -> Iterator[Source]:
    """The *.py files of the running interpreter's standard library, without tests, codec tables and packages."""
    root = root or Path(sysconfig.get_path("stdlib"))
    for path in _walk(root, _NOT_STDLIB_FOLDERS):
        if path.suffix == ".py" and not path.is_symlink() and not path.name.startswith(_NOT_STDLIB_PREFIX):
            yield _source(f"python-stdlib/{path.relative_to(root).as_posix()}", path)


NAMED_CORPORA = {"python-stdlib": python_stdlib}


def _sources_of(given: str, suffixes: Sequence[str]) -> list[Source]:
    if given in NAMED_CORPORA:
        found = list(NAMED_CORPORA[given]())
    elif (path := Path(given)).is_dir():
        found = [_source(f"{path.resolve().name}/{file.relative_to(path).as_posix()}", file) for file in _walk(path)]
        found = [source for source in found if _is_text(source.path, suffixes)]
    else:
        found = [_source(path.name, path)]
    if not found:
        raise DataError(
            f"{given}: no text in this folder; expected files ending in {', '.join((*suffixes, *_KINDS))} "
            f"(also with {' or '.join(_COMPRESSIONS)}); name other endings with --suffix"
        )
    return found


def _walk(folder: Path, without: frozenset[str] | set[str] = frozenset()) -> Iterator[Path]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: os.fsencode(entry.name))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name in without:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), without)
        elif entry.is_file():
            yield Path(entry.path)


def _is_text(path: Path, suffixes: Sequence[str]) -> bool:
    inner = path.with_suffix("") if path.suffix in _COMPRESSIONS else path
    return inner.suffix in suffixes or inner.suffix in _KINDS


def _source(name: str, path: Path) -> Source:
    try:
        status = path.stat()
    except OSError as error:
        named = f" and no named corpus ({', '.join(NAMED_CORPORA)})"
        raise DataError(f"{path}: no such file or folder{named}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path}: not a regular file; it has to be read more than once, so write it to a file first")
    compression = path.suffix if path.suffix in _COMPRESSIONS else ""
    inner = path.with_suffix("") if compression else path
    kind = _KINDS.get(inner.suffix, "text")
    if kind == "parquet" and compression:
        raise DataError(f"{path}: a compressed Parquet file cannot be read in place; decompress it first")
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{os.fsencode(path)!r}: the file name is not UTF-8; rename it") from error
    return Source(name, path, kind, compression, status.st_size)
