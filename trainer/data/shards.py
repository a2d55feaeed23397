"""Shards: token files of a fixed length, appended to, hashed as they grow, and resumable at any token."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from conform.core.files.atomic import create_new, staged
from conform.core.files.digest import hash_rest
from conform.trainer.data.manifest import DTYPES, Shard, SplitName
from conform.trainer.errors import DataError

__all__ = ["ShardWriter", "Tokens", "open_shard"]

Tokens = NDArray[np.unsignedinteger[Any]]
"""Token ids as a shard holds them: uint16 or uint32."""


class ShardWriter:
    """Writes one split as `SPLIT-00000.bin`, `SPLIT-00001.bin`, … of `shard_tokens` tokens each, the last one shorter.

    A shard has its final name only when it is complete; until then it is `.SPLIT-00000.bin.part`.
    """

    def __init__(self, folder: Path, split: SplitName, shard_tokens: int, dtype: str) -> None:
        self.shards: list[Shard] = []
        self.open_tokens = 0
        self._folder, self._split, self._shard_tokens = folder, split, shard_tokens
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()

    @property
    def tokens(self) -> int:
        """Tokens appended so far."""
        return sum(shard.tokens for shard in self.shards) + self.open_tokens

    @property
    def open_sha256(self) -> str:
        """sha256 of the bytes of the open shard."""
        return self._hash.hexdigest()

    def append(self, tokens: Tokens) -> int:
        """Append tokens; returns the number of shards that this completed."""
        before = len(self.shards)
        while len(tokens):
            room = self._shard_tokens - self.open_tokens
            head, tokens = tokens[:room], tokens[room:]
            payload = np.ascontiguousarray(head, self._dtype).tobytes()
            self._part().write(payload)
            self._hash.update(payload)
            self.open_tokens += len(head)
            if self.open_tokens == self._shard_tokens:
                self._complete()
        return len(self.shards) - before

    def sync(self) -> None:
        """Everything appended so far is on disk."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> tuple[Shard, ...]:
        """Complete the last shard; the shards of the split."""
        if self.open_tokens:
            self._complete()
        return tuple(self.shards)

    def close(self) -> None:
        """Let go of the open file; what it holds stays for a resumed build."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def resume(self, shards: list[Shard], open_tokens: int, open_sha256: str) -> None:
        """Go on after those shards and `open_tokens` tokens of the next one, cutting off what was written later.

        Raises DataError naming the shard that is missing or too short, or the open one when its bytes have changed.
        """
        self.shards = list(shards)
        for shard in shards:
            size = _size(self._folder / shard.name)
            if size != shard.tokens * self._dtype.itemsize:
                raise DataError(f"{self._folder / shard.name}: changed since the interrupted build; delete the folder")
        self._remove_after(len(shards), keep_open=open_tokens > 0)
        if open_tokens:
            self._reopen(open_tokens, open_sha256)

    def _reopen(self, open_tokens: int, open_sha256: str) -> None:
        name, part = self._name(), self._part_path()
        nbytes = open_tokens * self._dtype.itemsize
        # The process may have died between completing this shard and writing that down.
        if (self._folder / name).exists():
            os.replace(self._folder / name, part)
        if _size(part) < nbytes:
            raise DataError(f"{part}: changed since the interrupted build; delete the folder and build again")
        _leave_hard_links(part)
        os.truncate(part, nbytes)
        with part.open("rb") as file:
            self._hash = hash_rest(file)
        if self.open_sha256 != open_sha256:
            raise DataError(f"{part}: changed since the interrupted build; delete the folder and build again")
        self._file = part.open("ab")
        self.open_tokens = open_tokens

    def _remove_after(self, count: int, *, keep_open: bool) -> None:
        for pattern in (f"{self._split}-*.bin", f".{self._split}-*.bin.part"):
            for path in self._folder.glob(pattern):
                number = path.name.strip(".").removeprefix(f"{self._split}-").split(".")[0]
                if number.isdecimal() and int(number) >= count + keep_open:
                    path.unlink()

    def _name(self) -> str:
        return f"{self._split}-{len(self.shards):05d}.bin"

    def _part_path(self) -> Path:
        return self._folder / f".{self._name()}.part"

    def _part(self) -> IO[bytes]:
        if self._file is None:
            self._file = os.fdopen(create_new(self._part_path(), os.O_WRONLY), "wb")
        return self._file

    def _complete(self) -> None:
        self.sync()
        self.close()
        os.replace(self._part_path(), self._folder / self._name())
        self.shards.append(Shard(self._name(), self.open_tokens, self._hash.hexdigest()))
        self._hash = hashlib.sha256()
        self.open_tokens = 0


def open_shard(folder: Path, shard: Shard, dtype: str) -> Tokens:
    """The tokens of a shard, memory-mapped, its size checked.

    Raises DataError naming the shard when it is missing, truncated or too long.
    """
    path = folder / shard.name
    expected, found = shard.tokens * DTYPES[dtype], _size(path)
    if found != expected:
        what = "missing" if found < 0 else f"{found} bytes"
        raise DataError(f"{path}: expected {expected} bytes as the manifest says, found {what}; build the data again")
    try:
        # A plain array over the mapping: slicing the np.memmap subclass is several times slower.
        return np.asarray(np.memmap(path, np.dtype(dtype).newbyteorder("<"), mode="r"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _leave_hard_links(path: Path) -> None:
    # A backup that was made of links would be cut and written through.
    if path.stat().st_nlink > 1:
        with staged(path, b"") as copy:
            shutil.copyfile(path, copy)


def _size(path: Path) -> int:
    """The size of a regular file, or -1 when there is none."""
    return path.stat().st_size if path.is_file() else -1
