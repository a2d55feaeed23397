"""Worker: one reader, try after try, in a process that may be lost.

    python -m torture.worker READER SEED FIRST count:N|seconds:S WORK

WORK/log.jsonl gets one line for each try. Hostile files that did harm are copied to build/torture.
"""

import json
import os
import resource
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

from conform.contract.errors import ConformError
from torture.mutate import mutated_bytes
from torture.readers import CORPUS, FOUND, READERS, Reader

_SECONDS = 20
# What the allocator takes in advance and a library's first call keeps, and what a byte of JSON can become in Python.
_MEMORY_AT_LEAST = 96 << 20
_MEMORY_PER_BYTE = 200
_LONGEST_SENTENCE = 5000  # the name of a tensor may have 4096 characters
_KEPT = Path("build/torture")


class _HangError(BaseException):
    """Nothing a reader catches."""


def main() -> None:
    """Make the tries that the command line asks for."""
    name, seed, first, most, work = sys.argv[1:]
    reader = next(reader for reader in READERS if reader.name == name)
    watch()
    worker = _Worker(reader, int(seed), Path(work).resolve())
    worker.warm_up()
    kind, _, amount = most.partition(":")
    deadline = time.monotonic() + float(amount)
    number = int(first)
    with (Path(work) / "log.jsonl").open("w") as log:
        while number - int(first) < float(amount) if kind == "count" else time.monotonic() < deadline:
            how, failure = worker.attempt(number)
            log.write(json.dumps({"number": number, "how": how, "failure": failure}) + "\n")
            log.flush()
            number += 1


class _Worker:
    """A folder of the corpus, laid out anew for each try."""

    def __init__(self, reader: Reader, seed: int, work: Path) -> None:
        self._reader, self._seed, self._work = reader, seed, work
        self._sound = (CORPUS / reader.folder / reader.file).read_bytes()
        found = FOUND / reader.name
        self._found = sorted(found.iterdir()) if found.is_dir() else []
        self._room = 0

    def warm_up(self) -> None:
        """Read the sound file twice: imports and caches are not what a hostile file costs. It must be accepted."""
        for _ in range(2):
            self._reader.read(self._folder("sound"))

    def attempt(self, number: int) -> tuple[str, str]:
        """How the file was damaged, and what went wrong, "" when nothing did."""
        folder = self._folder("hostile-\udcff")  # the name of a folder need not be UTF-8
        target = folder / self._reader.file
        how, damage = self._damage(number)
        damage(target)
        size = target.stat().st_size if target.is_file() else 0
        with _bounded(size):
            failure = _failure(self._reader, folder)
        if failure and target.is_file():
            _KEPT.mkdir(parents=True, exist_ok=True)
            with target.open("rb") as file:
                (_KEPT / f"{self._reader.name}-{number}").write_bytes(file.read(1 << 24))
        return how, failure

    def _damage(self, number: int) -> tuple[str, Callable[[Path], None]]:
        """Places first, then what did harm before, then bytes and structure in turn."""
        if number < len(_PLACES):
            how, damage = list(_PLACES.items())[number]
            return how, (_large if damage is _huge and self._reader.streams else damage)
        number -= len(_PLACES)
        if number < len(self._found):
            return self._found[number].name, lambda target: target.write_bytes(self._found[number].read_bytes())
        random = Random(f"{self._seed} {self._reader.name} {number}")
        if number % 3 == 0:
            return "bytes", lambda target: target.write_bytes(self._sign(mutated_bytes(self._sound, random)))
        return "structure", lambda target: target.write_bytes(self._sign(self._structural(random)))

    def _structural(self, random: Random) -> bytes:
        try:
            return self._reader.structure(self._sound, random)
        except ValueError:  # not every line of a journal is JSON
            return mutated_bytes(self._sound, random)

    def _sign(self, content: bytes) -> bytes:
        return self._reader.sign(content)

    def _folder(self, name: str) -> Path:
        """A fresh copy of the reader's folder, beside the folders that it may refer to."""
        folder = self._work / name / self._reader.folder
        shutil.rmtree(self._work / name, ignore_errors=True)
        shutil.copytree(CORPUS / self._reader.folder, folder)
        if self._reader.folder == "run":
            (self._work / name / "data").symlink_to(CORPUS / "data")
        return folder


def _failure(reader: Reader, folder: Path) -> str:
    signal.alarm(_SECONDS)
    try:
        reader.read(folder)
    except ConformError as error:
        text = str(error)
        if not text or "\n" in text or len(text) > _LONGEST_SENTENCE:
            return (
                f"{type(error).__name__} says {len(text)} characters in {text.count(chr(10)) + 1} lines: {text[:200]!r}"
            )
    except _HangError:
        return f"it takes more than {_SECONDS} seconds"
    except BaseException as error:  # a failure whatever it is
        return f"{type(error).__name__}: {str(error)[:200]!r} {_place(error)}"
    finally:
        signal.alarm(0)
    return ""


def _place(error: BaseException) -> str:
    """Where in conform it came from."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "site-packages" not in name and "torture" not in name:
            place = f"{'/'.join(Path(name).parts[-2:])}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"({place})" if place else ""


@contextmanager
def _bounded(size: int) -> Iterator[None]:
    """No more address space than now, and so much more as a file of that size justifies. On Linux only."""
    if not sys.platform.startswith("linux"):
        yield
        return
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + _MEMORY_AT_LEAST + _MEMORY_PER_BYTE * size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def watch() -> None:
    """Let the alarm that is set for each try end it."""
    signal.signal(signal.SIGALRM, _hang)


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise _HangError


def _replace(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(target: Path) -> None:
        target.unlink()
        make(target)

    return damage


def _socket(target: Path) -> None:
    # The path of a socket is short, so it is bound from inside its folder.
    here = os.getcwd()
    os.chdir(target.parent)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(target.name)
    os.chdir(here)


def _huge(target: Path) -> None:
    with target.open("r+b") as file:
        file.truncate(1 << 42)


def _large(target: Path) -> None:
    with target.open("r+b") as file:
        file.truncate(1 << 22)


_PLACES: dict[str, Callable[[Path], None]] = {
    "no file": _replace(lambda _target: None),
    "an empty file": _replace(Path.touch),
    "a folder": _replace(Path.mkdir),
    "a pipe": _replace(os.mkfifo),
    "a socket": _replace(_socket),
    "a device": _replace(lambda target: target.symlink_to("/dev/zero")),
    "a link to itself": _replace(lambda target: target.symlink_to(target.name)),
    "a link to nothing": _replace(lambda target: target.symlink_to("nowhere")),
    "zeros behind it": _huge,
}

if __name__ == "__main__":
    main()
