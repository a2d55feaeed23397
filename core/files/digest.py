"""Digest: the sha256 of a file, streamed."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from conform.contract.bounded import open_regular

__all__ = ["file_sha256", "hash_rest"]

_CHUNK = 8 << 20


def file_sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """sha256 of a file's content, in hexadecimal; `progress` is told the number of bytes of each step.

    Raises InputError when the file cannot be read.
    """
    with open_regular(path) as file:
        return hash_rest(file, progress).hexdigest()


def hash_rest(file: BinaryIO, progress: Callable[[int], None] | None = None) -> "hashlib._Hash":
    """The sha256 of an open file from where it stands to its end, ready to take more."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
        if progress is not None:
            progress(len(chunk))
    return digest
