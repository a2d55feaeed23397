"""Purity: a result depends on the arguments alone, and a call has no other effect."""

import os
import random
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from conform.core.quantizer import Float32
from conform.plugins.testing.check import Check, NotApplicable, require
from conform.plugins.testing.subject import Subject

__all__ = ["CHECKS"]

# Bytes of working memory for each byte of input; a search that keeps all candidates of all blocks needs hundreds.
_MEMORY_CEILING = 8.0

_IO_EVENTS = ("open", "os.", "shutil.", "socket.", "subprocess.", "urllib.")


def _input(subject: Subject) -> str:
    # Some views are contiguous in the smallest tensor only, where what should be a copy may not be one.
    for shape in (subject.shape, (subject.rows_together, subject.block)):
        _untouched(subject, subject.gaussian(shape=shape), np.ones(shape[1], np.float32))
    return "values, importance and packed bytes untouched, read-only arrays accepted"


def _untouched(subject: Subject, values: Float32, importance: Float32) -> None:
    kept, kept_importance = values.copy(), importance.copy()
    packed = subject.pack(values, importance)
    require(values.tobytes() == kept.tobytes(), "quantize() changed the values")
    require(importance.tobytes() == kept_importance.tobytes(), "quantize() changed the importance")
    require(not np.shares_memory(packed, values), "the packed bytes are a view of the input")
    kept_packed = packed.copy()
    decoded = subject.decode(packed, values.shape)
    require(packed.tobytes() == kept_packed.tobytes(), "dequantize() changed the packed bytes")
    require(not np.shares_memory(decoded, packed), "the decoded values are a view of the packed bytes")
    for array in (values, importance, kept_packed):
        array.flags.writeable = False
    require(np.array_equal(subject.pack(values, importance), kept_packed), "a read-only array gives other bytes")
    subject.decode(kept_packed, values.shape)


def _state(subject: Subject) -> str:
    first, second = subject.gaussian(2), subject.gaussian(3) * np.float32(40)
    packed = subject.pack(first)
    kept, decoded = packed.copy(), subject.decode(packed).copy()
    other = subject.pack(second)
    require(np.array_equal(packed, kept), "a second call changed the result of the first")
    require(np.array_equal(subject.decode(kept), decoded), "dequantize() depends on what was quantized last")
    require(np.array_equal(subject.encode(first), kept), "the same values give other bytes after another tensor")
    fresh = subject.untouched.dequantize(kept, first.shape)
    require(np.array_equal(fresh, decoded), "a fresh instance decodes other values")
    require(not np.array_equal(other, kept), "two different tensors give the same bytes")
    return "no call leaves a trace in another"


def _surroundings_kept(subject: Subject) -> str:
    values, python_state, numpy_state = subject.gaussian(19), random.getstate(), np.random.get_state()
    try:
        # Otherwise a quantizer that seeds a generator at each call would leave it as it found it.
        random.random()
        np.random.random()
        before = _surroundings()
        subject.round_trip(values)
        after = _surroundings()
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
    changed = [name for name in before if before[name] != after[name]]
    require(not changed, f"changed {', '.join(changed)}")
    return "random states, numpy's error handling, environment and folder untouched"


def _surroundings() -> dict[str, Any]:
    return {
        "numpy's random state": str(np.random.get_state()),
        "Python's random state": random.getstate(),
        "numpy's error handling": np.geterr(),
        "the environment": dict(os.environ),
        "the working folder": os.getcwd(),
    }


class _Watch:
    """Counts I/O between enter and exit; an audit hook cannot be removed, so it is installed once and switched."""

    seen: list[str] | None = None
    installed = False

    @classmethod
    def hook(cls, event: str, _arguments: tuple[object, ...]) -> None:
        if cls.seen is not None and event.startswith(_IO_EVENTS):
            cls.seen.append(event)


@contextmanager
def _watched() -> Iterator[list[str]]:
    if not _Watch.installed:
        sys.addaudithook(_Watch.hook)
        _Watch.installed = True
    seen: list[str] = []
    _Watch.seen = seen
    try:
        yield seen
    finally:
        _Watch.seen = None


def _no_io(subject: Subject) -> str:
    values = subject.gaussian(4)
    subject.round_trip(values)  # imports and compilation at the first call do not count as I/O of the quantizer
    with _watched() as seen:
        subject.round_trip(values)
    require(not seen, f"quantize() or dequantize() caused {', '.join(sorted(set(seen)))}")
    return "no file, socket or process was touched"


def _determinism(subject: Subject) -> str:
    values = subject.gaussian(5)
    expected = subject.encode(values)
    for _ in range(2):
        require(np.array_equal(subject.encode(values), expected), "the same values gave other bytes")
    for count in (1, 2, 3, 7):
        with _threads(count):
            require(np.array_equal(subject.encode(values), expected), f"{count} threads gave other bytes")
    copies = [values.copy() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        same = all(np.array_equal(packed, expected) for packed in pool.map(subject.encode, copies))
    require(same, "four calls at the same time gave other bytes")
    return "three calls, 1, 2, 3 and 7 threads, four calls at once"


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = os.environ.get("CONFORM_THREADS")
    os.environ["CONFORM_THREADS"] = str(count)
    try:
        yield
    finally:
        del os.environ["CONFORM_THREADS"]
        if before is not None:
            os.environ["CONFORM_THREADS"] = before


def _chunking(subject: Subject) -> str:
    if subject.tail_bytes:
        raise NotApplicable(f"a tensor has {subject.tail_bytes} bytes of its own, so its rows are not independent")
    values = subject.gaussian(6)
    # Rows of different magnitude, so that a row that depends on its neighbours is noticed.
    values *= np.geomspace(0.01, 100, len(values), dtype=np.float32)[:, None]
    whole = subject.encode(values)
    step = subject.rows_together
    parts = [subject.encode(values[start : start + step]) for start in range(0, len(values), step)]
    require(np.array_equal(np.concatenate(parts), whole), "rows packed one by one differ from the same rows together")
    return f"{len(parts)} pieces joined equal the whole"


def _memory(subject: Subject) -> str:
    rows = subject.shape[0]
    small = subject.gaussian(7)
    large = subject.gaussian(7, (5 * rows, subject.cols))
    packed_small, packed_large = subject.encode(small), subject.encode(large)
    encode = _slope(lambda: subject.pack(small), lambda: subject.pack(large), large.nbytes - small.nbytes)
    decode = _slope(
        lambda: subject.decode(packed_small),
        lambda: subject.decode(packed_large, large.shape),
        large.nbytes - small.nbytes,
    )
    for what, slope in (("quantize", encode), ("dequantize", decode)):
        found = f"{what}() takes {slope:.1f} bytes of memory for a byte of values"
        require(slope <= _MEMORY_CEILING, f"{found}, the ceiling is {_MEMORY_CEILING:.0f}")
    return f"{encode:.1f} and {decode:.1f} bytes for a byte of values, ceiling {_MEMORY_CEILING:.0f}"


def _slope(small: Callable[[], object], large: Callable[[], object], more: int) -> float:
    """Bytes of peak memory for each further byte of input, so that tables and buffers do not count."""
    started = not tracemalloc.is_tracing()
    if started:
        tracemalloc.start()
    try:
        return max(0, _peak(large) - _peak(small)) / more
    finally:
        if started:
            tracemalloc.stop()


def _peak(action: Callable[[], object]) -> int:
    before = tracemalloc.get_traced_memory()[0]
    tracemalloc.reset_peak()
    action()
    return tracemalloc.get_traced_memory()[1] - before


CHECKS = (
    Check("input", "values, importance and packed bytes are not changed", _input),
    Check("state", "no call leaves a trace in another, nor in the quantizer", _state),
    Check("surroundings", "random states, environment and folder are left alone", _surroundings_kept),
    Check("no-io", "no file, socket or process is touched", _no_io),
    Check("determinism", "the same bytes each time, for any number of threads", _determinism),
    Check("chunking", "the same bytes however the rows are cut into pieces", _chunking),
    Check("memory", f"working memory is at most {_MEMORY_CEILING:.0f} times the values", _memory),
)
