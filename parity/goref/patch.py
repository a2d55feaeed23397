"""Patch: edits of goref's sources, each of which must apply exactly once, so that a fault cannot silently be none."""

import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from conform.parity.errors import RuntimeDriverError
from conform.parity.goref.toolchain import GOREF_SOURCES, source_files

__all__ = ["Edit", "patched_sources", "read_patch"]

_HUNK = re.compile(r"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class Edit:
    """A text of one source file and what replaces it; `origin` says in an error where the edit was written."""

    file: str
    old: str
    new: str
    origin: str = ""


def patched_sources(edits: Iterable[Edit], target: Path) -> Path:
    """Copy what goref is built from to `target`, make the edits in their order, and return `target`.

    Raises RuntimeDriverError when the text of an edit does not occur exactly once in its file.
    """
    for source in source_files(GOREF_SOURCES):
        copy = target / source.relative_to(GOREF_SOURCES)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    for edit in edits:
        _apply(edit, target)
    return target


def _apply(edit: Edit, sources: Path) -> None:
    file = sources / edit.file
    # With a line break before the first line, a hunk can say of any line that it begins there.
    text = "\n" + file.read_text(encoding="utf-8") if file.is_file() else ""
    if (count := text.count(edit.old)) != 1:
        where = edit.origin or f"the edit of {edit.old!r}"
        raise RuntimeDriverError(
            f"{where}: these lines occur {count} times in goref's {edit.file}, expected once; "
            "adapt the edit to the source as it is now"
        )
    file.write_text(text.replace(edit.old, edit.new)[1:], encoding="utf-8")


def read_patch(diff: str, origin: str, first_line: int = 1) -> tuple[Edit, ...]:
    """One edit for each hunk of a unified diff with the prefixes a/ and b/.

    A hunk applies where its lines stand, wherever that is: its line numbers are for the reader, its line counts are
    checked. `origin` names the diff in errors, and `first_line` is the number of its first line there.
    Raises RuntimeDriverError at whatever is not a unified diff, and when there is no hunk.
    """
    lines = enumerate(diff.split("\n"), first_line)
    edits = tuple(_hunks(lines, origin))
    if not edits:
        raise RuntimeDriverError(f"{origin}: no hunk found, expected a unified diff of goref's sources")
    return edits


def _hunks(lines: Iterator[tuple[int, str]], origin: str) -> Iterator[Edit]:
    file = ""
    for number, line in lines:
        if line.startswith("+++ b/"):
            file = line.removeprefix("+++ b/")
        elif file and (header := _HUNK.match(line)):
            yield _hunk(file, (int(header[1] or 1), int(header[2] or 1)), lines, f"{origin}:{number}")
        elif line and not line.startswith("--- a/"):
            raise RuntimeDriverError(f"{origin}:{number}: found {line!r}, expected a unified diff of goref's sources")


def _hunk(file: str, counts: tuple[int, int], lines: Iterator[tuple[int, str]], origin: str) -> Edit:
    """The hunk whose header was just read; `counts` are the numbers of its old and its new lines."""
    old: list[str] = []
    new: list[str] = []
    while len(old) < counts[0] or len(new) < counts[1]:
        _, line = next(lines, (0, "end of file"))
        kind = line[:1] or " "  # an editor may have cut the space of an empty line
        if kind not in " -+":
            raise RuntimeDriverError(f"{origin}: the hunk is shorter than its header says: found {line!r} in it")
        if kind != "+":
            old.append(line[1:])
        if kind != "-":
            new.append(line[1:])
    if (len(old), len(new)) != counts:
        raise RuntimeDriverError(
            f"{origin}: the hunk has {len(old)} old and {len(new)} new lines, expected {counts[0]} and {counts[1]}"
        )
    return Edit(file, "\n".join(["", *old, ""]), "\n".join(["", *new, ""]), origin)
