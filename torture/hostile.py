"""Hostile: every reader of conform against damaged files; the only answers are success and one sentence.

Each reader works in a process of its own. It fails when it raises anything but its refusals, says more than one line,
hangs, dies, or asks for more memory than the file's size justifies.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from conform.core.files.cores import usable_cores
from torture.campaign import Budget, Row
from torture.readers import READERS, Reader

__all__ = ["run"]

# A worker that says nothing for so long hangs where no alarm can wake it.
_SILENCE = 60.0
_MOST_DEATHS = 20
# In memory where that can be had: nothing here is about disks.
_ROOM = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run(budget: Budget) -> Iterator[Row]:
    """One row for each reader, as many readers at a time as there are cores."""
    readers = [reader for reader in READERS if budget.only in reader.name]
    with ThreadPoolExecutor(usable_cores()) as pool:
        share = budget.seconds * min(usable_cores(), len(readers)) / max(1, len(readers))
        yield from pool.map(lambda reader: _row(reader, budget.seed, budget.sample, share), readers)


def _row(reader: Reader, seed: int, sample: int | None, seconds: float) -> Row:
    """Run workers until the tries are made; one that dies or hangs is followed by another, behind that try."""
    end = time.monotonic() + seconds
    first, failures = 0, list[str]()
    with TemporaryDirectory(prefix="torture-", dir=_ROOM) as work:
        for _ in range(_MOST_DEATHS):
            most = (
                f"count:{sample - first}" if sample is not None else f"seconds:{max(0.0, end - time.monotonic()):.1f}"
            )
            log = Path(work) / "log.jsonl"
            death = _worker(reader, seed, first, most, Path(work))
            tried, new = _read_log(log)
            failures += new
            if not death:
                return Row(f"hostile: {reader.name}", first + tried, tuple(failures))
            failures.append(f"#{first + tried}: {death}")
            first += tried + 1
    return Row(f"hostile: {reader.name}", first, tuple(failures))


def _worker(reader: Reader, seed: int, first: int, most: str, work: Path) -> str:
    """Run one worker to its end; how it died, or "" when it did not."""
    log = work / "log.jsonl"
    log.unlink(missing_ok=True)
    command = [sys.executable, "-m", "torture.worker", reader.name, str(seed), str(first), most, str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (work / "output").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
        try:
            while process.poll() is None:
                time.sleep(0.05)
                if log.exists() and time.time() - log.stat().st_mtime > _SILENCE:
                    return f"it hangs for more than {_SILENCE:.0f} seconds"
        finally:
            process.kill()
            process.wait()
    if process.returncode == 0:
        return ""
    if process.returncode < 0:
        return f"the process dies of {signal.Signals(-process.returncode).name}"
    return f"the worker ends with status {process.returncode}: {(work / 'output').read_text(errors='replace')[-600:]!r}"


def _read_log(log: Path) -> tuple[int, list[str]]:
    """How many tries a worker completed, and the failures among them."""
    if not log.exists():
        return 0, []
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return len(lines), [f"#{line['number']} {line['how']}: {line['failure']}" for line in lines if line["failure"]]
