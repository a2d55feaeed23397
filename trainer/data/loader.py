"""Loader: batches of token windows whose order is a pure function of (seed, step), for any number of processes.

The train split is one stream of tokens; window w covers tokens w·L … w·L + L (L = sequence length, one more token
than inputs, so that targets are inputs shifted by one). Sample i of the run is window P(i mod W) of epoch i div W,
where W is the number of windows and P the keyed permutation of that epoch; batch `step` holds samples
step·G … step·G + G − 1 (G = global batch), of which each rank takes a contiguous G / world.
So the cursor is one number, and nothing needs to be saved to resume, in the middle of an epoch or elsewhere.
"""

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from conform.core.files.digest import file_sha256
from conform.trainer.data.manifest import Manifest, Shard, manifest_digest, read_manifest
from conform.trainer.data.permutation import permute
from conform.trainer.data.shards import Tokens, open_shard
from conform.trainer.errors import DataError

__all__ = ["Batch", "SampleOrder", "TokenLoader", "TokenStream", "Verify"]

Batch = NDArray[np.int64]
"""(sequences, sequence length + 1) token ids."""

Verify = Literal["lazy", "full", "off"]
"""When shards are hashed: each before its first use, all at open, or never (their sizes are checked in any case)."""

_State = tuple[int, int, int]
"""inode, size and time of the last change of a file: equal ones mean that nobody has written to it."""

_BEGIN_AGAIN = "begin again when nothing writes it any more"
_PREFETCHED = 4  # batches
_BLOCK = 4096  # samples whose windows are computed at once
_BLOCKS_KEPT = 4


class TokenStream:
    """The shards of one split as one stream of tokens."""

    def __init__(self, folder: Path, manifest: Manifest, shards: Sequence[Shard], verify: Verify) -> None:
        self._folder, self._shards = folder, shards
        self._tokens: list[Tokens] = [open_shard(folder, shard, manifest.dtype) for shard in shards]
        self._starts = np.cumsum([0, *(shard.tokens for shard in shards)])
        self._vocab = manifest.vocab
        self._verified = [verify == "off"] * len(shards)
        self._states: dict[int, _State] = {}
        if verify == "full":
            for number in range(len(shards)):
                self._verify(number)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def check_unchanged(self) -> None:
        """Pass when every shard that was hashed still is what it was; only one that was touched is hashed again.

        Raises DataError naming the shard.
        """
        for number, state in list(self._states.items()):
            if _state(self._folder / self._shards[number].name) != state:
                self._verified[number] = False
                self._verify(number)

    def read(self, starts: NDArray[np.int64], length: int) -> Batch:
        """(starts, length): the tokens from each start on, in one row each.

        Raises DataError naming the shard whose bytes are not those of the manifest.
        """
        out = np.empty((len(starts), length), np.int64)
        numbers = np.searchsorted(self._starts, starts, side="right") - 1
        offsets = starts - self._starts[numbers]
        for row, number, offset in zip(out, numbers.tolist(), offsets.tolist(), strict=True):
            self._verify(number)
            piece = self._tokens[number][offset : offset + length]
            row[: len(piece)] = piece
            if len(piece) < length:
                self._read_on(number + 1, row[len(piece) :])
        return out

    def _read_on(self, number: int, row: NDArray[np.int64]) -> None:
        """Fill what is left of a row from the beginning of the next shards."""
        filled = 0
        while filled < len(row):
            self._verify(number)
            piece = self._tokens[number][: len(row) - filled]
            row[filled : filled + len(piece)] = piece
            filled, number = filled + len(piece), number + 1

    def _verify(self, number: int) -> None:
        if self._verified[number]:
            return
        shard = self._shards[number]
        self._states[number] = _state(self._folder / shard.name)
        if (found := file_sha256(self._folder / shard.name)) != shard.sha256:
            raise DataError(
                f"{self._folder / shard.name}: changed since it was built: expected sha256 {shard.sha256[:16]}…, "
                f"found {found[:16]}…; restore it or build the data again"
            )
        if (largest := int(self._tokens[number].max())) >= self._vocab:
            raise DataError(f"{self._folder / shard.name}: token {largest} is not below the vocabulary {self._vocab}")
        self._verified[number] = True


class TokenLoader:
    """The batches of one rank. Use as a context manager, or `close()` it, to end its prefetching thread.

    Raises InputError when the folder holds no finished build, a shard is missing, truncated, changed or foreign, the
    data is shorter than one sequence, or `world` does not divide the global batch.
    """

    def __init__(
        self,
        folder: Path,
        seq_len: int,
        global_batch: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        verify: Verify = "lazy",
    ) -> None:
        _require_shape(seq_len, global_batch, rank, world)
        self.manifest = read_manifest(folder)
        self.manifest_digest = manifest_digest(folder)
        _refuse_foreign_shards(folder, self.manifest)
        self.folder, self.seq_len, self.global_batch, self.seed = folder, seq_len, global_batch, seed
        self._rows = range(rank * (global_batch // world), (rank + 1) * (global_batch // world))
        self._train = TokenStream(folder, self.manifest, self.manifest.train.shards, verify)
        self._held_out = TokenStream(folder, self.manifest, self.manifest.held_out.shards, verify)
        self.windows = _windows(folder, "train", len(self._train), seq_len)
        self.held_out_windows = _windows(folder, "held-out", len(self._held_out), seq_len)
        self._order = SampleOrder(self.windows, seed)
        self._prefetch = _Prefetch(self)

    def batch(self, step: int) -> Batch:
        """This rank's rows of batch `step` (from 0); the following steps are read ahead in a thread."""
        return self._prefetch.take(step)

    def held_out(self, batch_size: int) -> Iterator[Batch]:
        """Every held-out window in stream order, the same on every rank; the last batch may be smaller."""
        for first in range(0, self.held_out_windows, batch_size):
            rows = np.arange(first, min(first + batch_size, self.held_out_windows))
            yield self._held_out.read(rows * self.seq_len, self.seq_len + 1)

    def check_unchanged(self) -> None:
        """Pass when manifest and shards still are what was read; to be called before a figure is made of them.

        Raises InputError naming the file.
        """
        if manifest_digest(self.folder) != self.manifest_digest or read_manifest(self.folder) != self.manifest:
            raise DataError(f"{self.folder}: its manifest changed while the data was read; {_BEGIN_AGAIN}")
        for stream in (self._train, self._held_out):
            stream.check_unchanged()

    def close(self) -> None:
        """End the prefetching thread."""
        self._prefetch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read_batch(self, step: int) -> Batch:
        """What `batch` returns, read now and in this thread."""
        first = step * self.global_batch
        windows = self._order.windows(first + self._rows.start, first + self._rows.stop)
        return self._train.read(windows * self.seq_len, self.seq_len + 1)


class SampleOrder:
    """The window of every sample, a pure function of its number and the seed.

    It is computed a block at a time, for a shuffle of few numbers costs as much as one of many.
    """

    def __init__(self, windows: int, seed: int) -> None:
        self._windows, self._seed = windows, seed
        self._block = lru_cache(_BLOCKS_KEPT)(self._compute)

    def windows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The windows of samples `start` to `stop`."""
        blocks = range(start // _BLOCK, (stop - 1) // _BLOCK + 1)
        places = np.concatenate([self._block(block) for block in blocks])
        return places[start - blocks[0] * _BLOCK : stop - blocks[0] * _BLOCK]

    def _compute(self, block: int) -> NDArray[np.int64]:
        samples = np.arange(block * _BLOCK, (block + 1) * _BLOCK, dtype=np.int64)
        epochs, indices = np.divmod(samples, self._windows)
        for epoch in np.unique(epochs):
            inside = epochs == epoch
            indices[inside] = permute(indices[inside], self._windows, (self._seed, int(epoch)))
        return indices


class _Prefetch:
    """Reads the steps after the one last asked for; any other step is read when it is asked for."""

    def __init__(self, loader: TokenLoader) -> None:
        self._loader = loader
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="token-loader")
        self._ahead: dict[int, Future[Batch]] = {}
        self._lock = threading.Lock()

    def take(self, step: int) -> Batch:
        if step < 0:
            raise DataError(f"step {step}: expected a number from 0 on")
        with self._lock:
            future = self._ahead.pop(step, None) or self._pool.submit(self._loader.read_batch, step)
            wanted = range(step + 1, step + 1 + _PREFETCHED)
            for stale in self._ahead.keys() - set(wanted):
                self._ahead.pop(stale).cancel()
            for later in wanted:
                if later not in self._ahead:
                    self._ahead[later] = self._pool.submit(self._loader.read_batch, later)
        return future.result()

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


def _refuse_foreign_shards(folder: Path, manifest: Manifest) -> None:
    """Raises DataError naming a token file in the folder that the manifest does not list."""
    known = {shard.name for shard in manifest.shards}
    for path in sorted(folder.glob("*.bin")):
        if path.name not in known:
            raise DataError(f"{path}: foreign: the manifest does not list this shard; remove it or build again")


def _state(path: Path) -> _State:
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _require_shape(seq_len: int, global_batch: int, rank: int, world: int) -> None:
    if seq_len < 1 or global_batch < 1 or world < 1 or not 0 <= rank < world:
        raise DataError(f"rank {rank} of {world}, {global_batch} sequences of {seq_len}: expected positive numbers")
    if global_batch % world:
        raise DataError(f"global batch {global_batch} does not divide by {world} processes; choose a multiple")


def _windows(folder: Path, split: str, tokens: int, seq_len: int) -> int:
    if tokens <= seq_len:
        raise DataError(
            f"{folder}: the {split} split has {tokens} tokens, but a sequence of {seq_len} needs {seq_len + 1}; "
            "use more text or shorter sequences"
        )
    return (tokens - 1) // seq_len
