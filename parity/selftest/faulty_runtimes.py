"""Faulty runtimes: goref with one fault planted in its source, each of which a verdict must catch."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conform.core.gguf.types import GGML_TYPES
from conform.parity.errors import RuntimeDriverError
from conform.parity.goref.patch import Edit, patched_sources, read_patch
from conform.parity.goref.toolchain import GOREF_SOURCES, build_goref
from conform.parity.verdict import RUNGS, RungName

__all__ = ["FAULTS", "FaultyRuntime", "build_faulty", "faulty_runtimes"]

FAULTS = GOREF_SOURCES / "faults"
"""One patch for each fault, its name being the fault's; the README there says what its header holds."""


@dataclass(frozen=True, slots=True)
class FaultyRuntime:
    """A planted fault: what it is, the rung that must fail for it, and the edits of goref's sources that make it.

    `only` names the tensor type without which the fault has no effect; it is empty when there is none.
    """

    name: str
    what: str
    breaks: RungName
    edits: tuple[Edit, ...]
    only: str = ""


def faulty_runtimes(folder: Path = FAULTS) -> tuple[FaultyRuntime, ...]:
    """The fault of every patch in the folder: in the order of the rungs that catch them, then by name.

    Raises RuntimeDriverError, naming the file, when a patch or its header is malformed.
    """
    faults = [_read_fault(path) for path in folder.glob("*.patch")]
    return tuple(sorted(faults, key=lambda fault: (RUNGS.index(fault.breaks), fault.name)))


def build_faulty(fault: FaultyRuntime) -> Path:
    """The binary, built from a copy of goref's sources.

    Raises RuntimeDriverError when an edit does not apply exactly once, or the build fails.
    """
    with tempfile.TemporaryDirectory(prefix="conform-goref-") as folder:
        return build_goref("bitnet", patched_sources(fault.edits, Path(folder) / "goref"))


def _read_fault(path: Path) -> FaultyRuntime:
    header, _, diff = path.read_text(encoding="utf-8").partition("\n\n")
    lines = header.split("\n")
    fields = dict(line.split(": ", 1) for line in lines if ": " in line)
    if len(fields) != len(lines) or not {"What", "Breaks"} <= fields.keys() <= {"What", "Breaks", "Only"}:
        raise RuntimeDriverError(f"{path.name}: found the header {lines}, expected What, Breaks and perhaps Only")
    only = fields.get("Only", "")
    if only and only not in {kind.name for kind in GGML_TYPES.values()}:
        raise RuntimeDriverError(f"{path.name}: Only: {only!r} is not a tensor type")
    edits = read_patch(diff, path.name, first_line=len(lines) + 2)
    return FaultyRuntime(path.stem, fields["What"], _rung(path, fields), edits, only)


def _rung(path: Path, fields: Mapping[str, str]) -> RungName:
    for rung in RUNGS:
        if rung == fields["Breaks"]:
            return rung
    raise RuntimeDriverError(f"{path.name}: Breaks: found {fields['Breaks']!r}, expected one of {', '.join(RUNGS)}")
