"""Metrics: what a run measured, one JSON object a line, and as TensorBoard events when asked."""

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conform.contract.bounded import open_regular
from conform.core.files.atomic import write_atomically
from conform.trainer.errors import TrainError

__all__ = ["METRICS_NAME", "Metrics", "measured", "read_metrics"]

METRICS_NAME = "metrics.jsonl"
_LONGEST_LINE = 1 << 20
_LAST_STEP = 1 << 53  # up to here a plot can tell steps apart


class Metrics:
    """Appends to RUN/metrics.jsonl. What an interrupted run wrote after `step`, it will write again: it is cut off.

    With `measure_again` so is what was measured at `step`. Raises TrainError when the file cannot be written.
    """

    def __init__(self, run: Path, step: int, *, measure_again: bool = False, tensorboard: bool = False) -> None:
        self._path = run / METRICS_NAME
        kept = [record for record in read_metrics(run) if record["step"] <= step]
        if measure_again:
            kept = [record for record in kept if record["step"] < step or record["kind"] == "step"]
        with self._disk_errors():
            write_atomically(self._path, "".join(_line(record) for record in kept).encode())
            self._file = self._path.open("a")
        self._events = _event_writer(run) if tensorboard else None

    def write(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append one record. Raises TrainError when it cannot be written."""
        with self._disk_errors():
            self._file.write(_line({"kind": kind, "step": step, **values}))
            self._file.flush()
        if self._events is not None:
            for name, value in values.items():
                if isinstance(value, int | float):
                    self._events.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> None:
        """Return when every record is on the disk: no checkpoint may outlive those of its steps. Raises TrainError."""
        with self._disk_errors():
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Complete both files. Raises TrainError when what could not be written still cannot be."""
        with self._disk_errors():
            self._file.close()
        if self._events is not None:
            self._events.close()

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            advice = "; make room, then --resume" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise TrainError(f"{self._path}: cannot be written: {error.strerror}{advice}") from error


def measured(run: Path, step: int) -> set[str]:
    """What was measured at that step: "held_out", and the name of each quantizer that was judged.

    Raises TrainError naming the line that is not a record.
    """
    records = (record for record in read_metrics(run) if record["step"] == step)
    return {str(record.get("quantizer", record["kind"])) for record in records}


def read_metrics(run: Path) -> Iterator[dict[str, Any]]:
    """Every record of a run, in order; a last line that was cut short is left out.

    Raises TrainError naming the line that is not a record.
    """
    path = run / METRICS_NAME
    if not path.is_file():
        return
    with open_regular(path) as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), 1):
            if len(line) == _LONGEST_LINE:
                raise TrainError(f"{path}:{number}: longer than any record, {_LONGEST_LINE} bytes or more")
            if not line.endswith(b"\n"):
                return
            yield _record(line, f"{path}:{number}")


def _record(line: bytes, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TrainError(f"{where}: not JSON: {error}; delete that line") from error
    if not isinstance(record, dict) or not isinstance(record.get("kind"), str) or not _is_step(record.get("step")):
        raise TrainError(f"{where}: expected a record with kind and step; delete that line")
    return record


def _is_step(value: object) -> bool:
    return type(value) is int and 0 <= value <= _LAST_STEP


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":")) + "\n"


def _event_writer(run: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise TrainError(
            "tensorboard = true needs the tensorboard package; pip install 'gguf-conform[report]'"
        ) from error
    return SummaryWriter(str(run / "tensorboard"))
