"""Loader tokens per second: conform's against a plain memory map and mosaicml-streaming, in one run.

    python bench/loader.py [--json result.json]

Every subject delivers the same thing: shuffled batches of (batch, sequence + 1) int64 ids in one process, from the
same tokens, read once beforehand so that the disk plays no part. The subjects take turns, so that a busy machine slows
all alike; the medians are shown. mosaicml-streaming takes part where it can be imported; it needs numpy below 2.2, so
give it an environment of its own: pip install -e . mosaicml-streaming==0.13.0
"""

import importlib.util
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from conform.core.cli.console import print_table
from conform.core.cli.options import json_option
from conform.core.cli.output import write_json
from conform.trainer.data.loader import TokenLoader
from conform.trainer.data.manifest import MANIFEST_NAME, SPLITS, Manifest, Recipe, Split
from conform.trainer.data.shards import ShardWriter

__all__ = ["Measurement", "main"]

Batches = Generator[NDArray[np.int64], None, None]
_VOCAB = 32000


@dataclass(frozen=True, slots=True)
class Measurement:
    """One subject: medians over the rounds, and the seconds from nothing to its first batch."""

    subject: str
    tokens_per_second: float
    tokens_per_cpu_second: float
    against_memmap: float
    first_batch_seconds: float


@dataclass(frozen=True, slots=True)
class _Shape:
    tokens: int
    seq_len: int
    batch: int
    steps: int
    rounds: int


@click.command()
@click.option("--tokens", default=1 << 25, show_default=True, help="Tokens of synthetic data.")
@click.option("--seq-len", default=1024, show_default=True)
@click.option("--batch", default=32, show_default=True)
@click.option("--steps", default=100, show_default=True, help="Batches per round.")
@click.option("--rounds", default=7, show_default=True)
@json_option
def main(tokens: int, seq_len: int, batch: int, steps: int, rounds: int, json_path: str | None) -> None:
    """Measure every loader that is installed."""
    shape = _Shape(tokens, seq_len, batch, steps, rounds)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "conform", shape)
        measured = measure(_subjects(Path(folder), shape), shape)
        # Shown before the folder goes: a thread of mosaicml-streaming that still reads there complains at the end.
        _show(measured, shape, json_path)


def _show(measured: list[Measurement], shape: _Shape, json_path: str | None) -> None:
    report = {**asdict(shape), "results": [asdict(result) for result in measured]}
    if write_json(report, json_path):
        return
    rows = [
        (
            result.subject,
            f"{result.tokens_per_second / 1e6:.1f} M",
            f"{result.tokens_per_cpu_second / 1e6:.1f} M",
            f"{result.against_memmap:.2f}",
            f"{result.first_batch_seconds * 1000:.1f} ms",
        )
        for result in measured
    ]
    print_table(("loader", "tokens/s", "tokens/CPU s", "× memmap (CPU)", "first batch"), rows)


def write_shards(folder: Path, shape: _Shape) -> None:
    """Shards of random ids with a true manifest."""
    folder.mkdir()
    random = np.random.default_rng(0)
    splits = {}
    for name in SPLITS:
        writer = ShardWriter(folder, name, 1 << 24, "uint16")
        count = shape.tokens if name == "train" else 2 * shape.seq_len
        writer.append(random.integers(0, _VOCAB, count, np.uint16))
        splits[name] = Split(1, 1, count, writer.finish())
    manifest = Manifest(
        format=1, dtype="uint16", vocab=_VOCAB, bos_id=1, eos_id=2,
        tokenizer_sha256="0" * 64, tokenizer_semantic_digest="0" * 64,
        train=splits["train"], held_out=splits["held_out"], unigram_loss=1.0,
        recipe=Recipe(0.02, 1 << 24, 1 << 20, "text"), skipped={}, sources=(),
    )  # fmt: skip
    (folder / MANIFEST_NAME).write_text(manifest.to_json())


def _subjects(folder: Path, shape: _Shape) -> dict[str, Callable[[ExitStack], Batches]]:
    subjects = {
        "plain memmap": lambda _stack: _memmap(folder / "conform", shape),
        "conform": lambda stack: _conform(folder / "conform", shape, stack),
        "conform, hashes off": lambda stack: _conform(folder / "conform", shape, stack, verify="off"),
    }
    if importlib.util.find_spec("streaming") is not None:
        _write_mds(folder, shape)
        subjects["mosaicml-streaming"] = lambda _stack: _streaming(folder / "mds", shape)
    return subjects


def measure(subjects: dict[str, Callable[[ExitStack], Batches]], shape: _Shape) -> list[Measurement]:
    """Open all subjects, then let them take turns."""
    with ExitStack() as stack:
        opened, first = {}, {}
        for name, opener in subjects.items():
            began = time.perf_counter()
            opened[name] = stack.enter_context(closing(opener(stack)))
            next(opened[name])
            first[name] = time.perf_counter() - began
        wall: dict[str, list[float]] = {name: [] for name in opened}
        cpu: dict[str, list[float]] = {name: [] for name in opened}
        for _ in range(shape.rounds):
            for name, batches in opened.items():
                began, cpu_began = time.perf_counter(), time.process_time()
                for batch in itertools.islice(batches, shape.steps):
                    assert batch.shape == (shape.batch, shape.seq_len + 1)
                wall[name].append(time.perf_counter() - began)
                cpu[name].append(time.process_time() - cpu_began)
    tokens = shape.steps * shape.batch * shape.seq_len
    baseline = statistics.median(cpu["plain memmap"])
    return [
        Measurement(
            name,
            tokens / statistics.median(wall[name]),
            tokens / statistics.median(cpu[name]),
            baseline / statistics.median(cpu[name]),
            first[name],
        )
        for name in opened
    ]


def _memmap(folder: Path, shape: _Shape) -> Batches:
    """As small trainers do it: random offsets into one shard, nothing hashed, nothing resumable."""
    tokens = np.memmap(folder / "train-00000.bin", "<u2", mode="r")
    random = np.random.default_rng(0)
    while True:
        starts = random.integers(0, len(tokens) - shape.seq_len - 1, shape.batch)
        yield np.stack([tokens[start : start + shape.seq_len + 1].astype(np.int64) for start in starts])


def _conform(folder: Path, shape: _Shape, stack: ExitStack, verify: str = "full") -> Batches:
    loader = stack.enter_context(TokenLoader(folder, shape.seq_len, shape.batch, 0, verify=verify))  # type: ignore[arg-type]
    return (loader.batch(step) for step in itertools.count())


def _write_mds(folder: Path, shape: _Shape) -> None:
    from streaming import MDSWriter

    tokens = np.concatenate([np.fromfile(path, "<u2") for path in sorted((folder / "conform").glob("train-*.bin"))])
    columns = {"tokens": f"ndarray:uint16:{shape.seq_len + 1}"}
    with MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for start in range(0, len(tokens) - shape.seq_len, shape.seq_len):
            writer.write({"tokens": tokens[start : start + shape.seq_len + 1]})


def _streaming(folder: Path, shape: _Shape) -> Batches:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(folder), shuffle=True, shuffle_seed=0, batch_size=shape.batch)
    while True:
        with closing(iter(dataset)) as samples:
            while len(rows := list(itertools.islice(samples, shape.batch))) == shape.batch:
                yield np.stack([row["tokens"].astype(np.int64) for row in rows])


if __name__ == "__main__":
    main()
