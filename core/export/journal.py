"""Export journal: which tensors of an unfinished file are done, so that the same export can resume it.

    .NAME.gguf.journal    first line: fingerprint of the plan; then one JSON line for each tensor that was written

A tensor counts as done only when the bytes in the partial file still have the sha256 that its line states.
"""

import contextlib
import hashlib
import json
import math
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType

from conform.contract.bounded import read_bounded
from conform.core.errors import ExportError, InputError
from conform.core.export.cost import Cost
from conform.core.export.plan import ExportPlan
from conform.core.files.atomic import create_new

__all__ = ["ExportJournal", "JournalEntry", "fingerprint"]

_LARGEST = 64 << 20

JournalEntry = tuple[str, Cost]
"""sha256 of a tensor's bytes, and its cost."""


def fingerprint(plan: ExportPlan, header: bytes) -> str:
    """A digest of all that decides the bytes of the file: header, quantizers with their settings, importance."""
    digest = hashlib.sha256(header)
    for tensor in plan.tensors:
        # The repr of a quantizer that is not a dataclass holds its address: an export with it always begins anew.
        digest.update(f"{tensor.codec.quantizer!r} {tensor.codec.owner} {tensor.transform}\n".encode())
        if tensor.importance is not None:
            digest.update(hashlib.sha256(tensor.importance.tobytes()).digest())
    return digest.hexdigest()


class ExportJournal:
    """The journal of one file; it stays only when the export is interrupted, never when it ends or fails."""

    def __init__(self, target: Path, plan_fingerprint: str, *, resume: bool) -> None:
        self._path = target.with_name(f".{target.name}.journal")
        self._fingerprint = plan_fingerprint
        self._lock = threading.Lock()
        self._fd = -1
        self.done: Mapping[str, JournalEntry] = self._read() if resume else {}

    def __enter__(self) -> "ExportJournal":
        with self._disk_errors():
            self._fd = create_new(self._path, os.O_WRONLY)
        self._write(self._fingerprint)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)
        if kind is None or issubclass(kind, Exception):
            self._path.unlink(missing_ok=True)

    def add(self, name: str, sha256: str, cost: Cost) -> None:
        """Note that a tensor's bytes were written; may be called by several threads."""
        fields = (cost.values, cost.errors, cost.weighted_values, cost.weighted_errors)
        line = json.dumps([name, sha256, *(field.hex() for field in fields)])
        with self._lock:
            self._write(line)

    def _write(self, line: str) -> None:
        view = memoryview(f"{line}\n".encode())
        with self._disk_errors():
            while view.nbytes:
                view = view[os.write(self._fd, view) :]

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ExportError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _read(self) -> dict[str, JournalEntry]:
        try:
            lines = read_bounded(self._path, _LARGEST, "a journal").decode().split("\n")
        except (InputError, UnicodeDecodeError):
            return {}
        if lines[0] != self._fingerprint:
            return {}
        # The last line has no end when the export was killed while it was being written.
        return dict(entry for line in lines[1:-1] if (entry := _entry(line)) is not None)


def _entry(line: str) -> tuple[str, JournalEntry] | None:
    try:
        name, sha256, *fields = json.loads(line)
        cost = Cost(*(float.fromhex(field) for field in fields))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    numbers = (cost.values, cost.errors, cost.weighted_values, cost.weighted_errors)
    sound = isinstance(name, str) and isinstance(sha256, str) and all(0 <= number < math.inf for number in numbers)
    return (name, (sha256, cost)) if sound else None
