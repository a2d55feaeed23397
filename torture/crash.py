"""Crash: every command that writes, failing or killed at each of its writes, renames, syncs, truncations and locks.

It holds when nothing half-written has a final name, an error of the disk is one sentence, and the same command,
repeated, leaves the bytes of one that nothing ever happened to.
"""

import json
import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from torture.campaign import Budget, Row
from torture.faults import EFFECTS, TORN, Fault
from torture.readers import CORPUS
from torture.victim import run_command

__all__ = ["run"]

_SECONDS = 120.0
_CLOCK = ("seconds", "tokens_per_second", "mfu")
_Tree = Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class _Command:
    """What is typed, the file that ends it where it is not to be repeated then, and what is typed to go on."""

    name: str
    arguments: Sequence[str]
    last: str = ""
    again: Callable[[Path], Sequence[str]] | None = None


def _resumed(folder: Path) -> Sequence[str]:
    begun = (folder / "run/run.json").exists()
    return ("train", "--resume", "run") if begun else _TRAIN


_TRAIN = (
    *("train", "--contract", str(CORPUS / "contract/contract.toml"), "--data", str(CORPUS / "data"), "--out", "run"),
    *("--steps", "4", "--batch", "4", "--sequence", "16", "--save-every", "2", "--eval-every", "2"),
    *("--keep-last", "0", "--dtype", "f32", "--eval-sequences", "4"),
)
_COMMANDS = (
    _Command("export", ("export", str(CORPUS / "model"), "--quant", "q8_0", "-o", "out/model.gguf")),
    _Command("train", _TRAIN, again=_resumed),
    _Command(
        "data",
        (
            *(
                "data",
                "build",
                "--input",
                str(CORPUS / "text/lines.jsonl"),
                "--tokenizer",
                str(CORPUS / "data"),
                "--out",
                "shards",
            ),
            *("--held-out", "0.3", "--shard-tokens", "600", "--workers", "2"),
        ),
    ),
    _Command(
        "tokenizer",
        ("tokenizer", "train", "--input", str(CORPUS / "text/a.txt"), "--vocab", "320", "--out", "tokenizer"),
        last="tokenizer/tokenizer.model",
    ),
    _Command(
        "imatrix",
        (
            *("imatrix", str(CORPUS / "model"), "--data", str(CORPUS / "data"), "-o", "out.imatrix"),
            *("--chunks", "6", "--sequence", "16", "--batch", "2"),
        ),
    ),
)


def run(budget: Budget) -> Iterator[Row]:
    """One row for each command."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torture.victim"])
    commands = [command for command in _COMMANDS if budget.only in command.name]
    deadline = time.monotonic() + budget.seconds
    for number, command in enumerate(commands):
        share = (deadline - time.monotonic()) / (len(commands) - number)
        with TemporaryDirectory(prefix="torture-") as work:
            yield _row(_Victims(context, command, Path(work)), budget, time.monotonic() + share)


def _row(victims: "_Victims", budget: Budget, end: float) -> Row:
    tried, failures = 0, list[str]()
    for operation, fault in _faults(victims.operations, budget.seed)[: budget.sample]:
        if budget.sample is None and time.monotonic() > end:
            break
        tried += 1
        if problem := victims.attempt(fault):
            failures.append(f"{fault.effect} at #{fault.number}, {operation}: {problem}")
    return Row(f"crash: {victims.command.name}", tried, tuple(failures))


def _faults(operations: Sequence[str], seed: int) -> list[tuple[str, Fault]]:
    """Every effect at every operation, in an order that is the same for equal seeds."""
    found = [
        (operation, Fault(number, effect))
        for number, operation in enumerate(operations, 1)
        for effect in EFFECTS
        if effect not in TORN or "write " in operation
    ]
    Random(seed).shuffle(found)
    return found


class _Victims:
    """One command, run again and again; `operations` are those of a run to which nothing happens."""

    def __init__(self, context: ForkServerContext, command: _Command, work: Path) -> None:
        self.command = command
        self._context, self._work = context, work
        status = self._run(command.arguments, Fault())
        if status != 0:
            raise RuntimeError(f"conform {' '.join(command.arguments)}: status {status}: {self._said()}")
        self._whole = _tree(self._folder)
        self.operations: list[str] = json.loads(self._folder.with_suffix(".operations").read_text())

    def attempt(self, fault: Fault) -> str:
        """What went wrong, or "" when everything held."""
        shutil.rmtree(self._folder)
        status = self._run(self.command.arguments, fault)
        problem = self._wrong_end(status) or _half_written(_tree(self._folder), self._whole)
        done = bool(self.command.last) and (self._folder / self.command.last).exists()
        if not (problem or done or status == 0):
            again = self.command.again(self._folder) if self.command.again else self.command.arguments
            if (status := self._run(again, Fault())) != 0:
                problem = f"repeated, it ends with status {status}: {self._said()}"
        return problem or ("" if done else _difference(_tree(self._folder), self._whole))

    @property
    def _folder(self) -> Path:
        return self._work / "folder"

    def _run(self, arguments: Sequence[str], fault: Fault) -> int | None:
        self._folder.mkdir(exist_ok=True)
        process = self._context.Process(target=run_command, args=(list(arguments), self._folder, fault))
        process.start()
        process.join(_SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            return None
        return process.exitcode

    def _wrong_end(self, status: int | None) -> str:
        if status in (0, -signal.SIGKILL):
            return ""
        said = self._said()
        if status == 2 and "Traceback" not in said and said.splitlines()[-1].startswith("conform: "):
            return ""
        return f"it ends with status {status}: {said}"

    def _said(self) -> str:
        return self._folder.with_suffix(".said").read_text(errors="replace").strip()[-400:]


def _tree(folder: Path) -> _Tree:
    """Every file below the folder by its name, without what depends on the clock."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): _content(path) for path in files}


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name != "metrics.jsonl":
        return content
    records = [json.loads(line) for line in content.split(b"\n")[:-1]]
    kept = [{key: value for key, value in record.items() if key not in _CLOCK} for record in records]
    return json.dumps(kept).encode()


def _half_written(found: _Tree, whole: _Tree) -> str:
    """A file under its final name that is neither complete nor, like metrics and sidecars, one that grows."""
    for name, content in found.items():
        file = name.rpartition("/")[2]
        if name.startswith(".") or "/." in name or file in ("metrics.jsonl", "conform.json"):
            continue
        if name in whole and content != whole[name]:
            return f"{name} is half-written"
        if name not in whole and file != "build.json":
            return f"{name} is there, which a complete command does not leave"
    return ""


def _difference(found: _Tree, whole: _Tree) -> str:
    for name in sorted({*found, *whole}):
        if name not in found:
            return f"{name} is missing at the end"
        if name not in whole:
            return f"{name} is left behind"
        if found[name] != whole[name]:
            return f"{name} has other bytes at the end"
    return ""
