"""Self-test: plants every fault that applies, one at a time, and shows that the verdict catches each of them."""

import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import ggml_type
from conform.core.runtime import Limits
from conform.core.verify.verify import open_gguf
from conform.parity.candidate import Candidate
from conform.parity.judgement import judge
from conform.parity.progress import silent
from conform.parity.questions.prompts import HOSTILE_TEXTS
from conform.parity.questions.sequences import Scope
from conform.parity.selftest.faulty_runtimes import build_faulty, faulty_runtimes
from conform.parity.selftest.mutants import FILE_MUTANTS, write_mutant
from conform.parity.verdict import RungName, RungResult

__all__ = ["PlantedFault", "plant_faults"]

# Enough to see every fault, and little enough to judge two dozen of them.
_SCOPE = Scope(max_tokens=8, forced_positions=10, longest=48, texts=HOSTILE_TEXTS[1:6])


@dataclass(frozen=True, slots=True)
class PlantedFault:
    """One fault: where it was planted, the rung that had to fail, and by how many times it was out of tolerance."""

    name: str
    place: str
    what: str
    rung: RungName
    caught: bool
    margin: float

    def to_json(self) -> dict[str, object]:
        """The fields, with a margin that JSON can hold."""
        return {
            "name": self.name,
            "place": self.place,
            "what": self.what,
            "rung": self.rung,
            "caught": self.caught,
            "margin": self.margin if math.isfinite(self.margin) else "inf",
        }


def plant_faults(
    candidate: Candidate, open_runtime: Callable[[Path | None, GGUFFile], Candidate], *, runtimes: bool
) -> Iterator[PlantedFault]:
    """Every fault of the file, and, if asked for, every fault of goref, judged with all rungs."""
    for mutant in FILE_MUTANTS:
        with tempfile.TemporaryDirectory(prefix="conform-mutant-") as folder:
            target = Path(folder) / "mutant.gguf"
            if write_mutant(mutant, candidate.file, target):
                broken = open_runtime(None, open_gguf(target, candidate.registry))
                yield _planted(mutant.name, "file", mutant.what, mutant.breaks, broken)
    kinds = {ggml_type(info.ggml_type) for info in candidate.file.tensors.values()}
    names = {kind.name for kind in kinds if kind is not None}
    for fault in faulty_runtimes() if runtimes else ():
        if not fault.only or fault.only in names:
            broken = open_runtime(build_faulty(fault), candidate.file)
            yield _planted(fault.name, "runtime", fault.what, fault.breaks, broken)


def _planted(name: str, place: str, what: str, rung: RungName, candidate: Candidate) -> PlantedFault:
    verdict = judge(candidate, _SCOPE, Limits(), silent, keep_going=True)
    result = next(result for result in verdict.rungs if result.rung == rung)
    # A rung that was not run saw nothing, and so caught nothing.
    return PlantedFault(name, place, what, rung, result.status == "fail", _margin(result))


def _margin(result: RungResult) -> float:
    """By how many times the worst measurement is out of its tolerance; infinite where exactness was asked for."""
    wrong = [m for m in result.measurements if not m.passed]
    return max((m.measured / m.tolerance if m.tolerance else float("inf") for m in wrong), default=float("inf"))
