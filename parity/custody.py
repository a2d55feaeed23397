"""Custody: the files that are judged, kept so that what was hashed is what ran, and an empty folder to run in.

A file is copied into a private folder, and the copy is hashed and run: whatever becomes of the original, or is done to
it by the runtime, the digest is that of what was judged. A file that is too large, or a program that needs what lies
beside it, stays where it is. Either kind is hashed and looked at once more at the end.
"""

import mmap
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from conform.contract.finding import Finding
from conform.core.errors import ConformError
from conform.core.files.digest import file_sha256

__all__ = ["Custody", "Kept"]

_LARGEST_COPY = 4 << 30
_BINARY = (b"\x7fELF", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")  # Linux, macOS, macOS for several processors
_ORIGIN = (b"$ORIGIN", b"${ORIGIN}", b"@loader_path", b"@executable_path")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Kept:
    """One file as it was named, what is used in its place, and the sha256 of that; `copied` says if they differ."""

    original: Path
    path: Path
    sha256: str
    copied: bool


@dataclass(frozen=True, slots=True)
class _Identity:
    """What changes when a file is written, replaced, renamed or made writable, even if all is put back after."""

    device: int
    number: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> "_Identity":
        found = path.stat()
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


class Custody:
    """A private folder for the length of a verdict: copies of what is judged, and the runtime's working folder."""

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="conform-judged-"))  # mkdtemp makes it 0700
        self.folder = self._root / "work"
        self.folder.mkdir()
        self._kept: list[tuple[Kept, _Identity]] = []
        self._at_end = ExitStack()
        self._at_end.callback(shutil.rmtree, self._root, ignore_errors=True)

    def __enter__(self) -> "Custody":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._at_end.close()

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Every file, in the order in which they came."""
        return tuple(kept for kept, _ in self._kept)

    def at_end(self, end: Callable[[], None]) -> None:
        """Call this at the end, before the folder goes: what still runs in it must end first."""
        self._at_end.callback(end)

    def keep_program(self, program: Path, companions: Sequence[Path] = ()) -> Kept:
        """The program with the tools beside it; they stay together, copied only if each can run from elsewhere."""
        files = [program, *companions]
        together = all(_runs_anywhere(path) for path in files)
        kept = [self._keep(path, "bin", together, 0o555) for path in files]
        return kept[0]

    def keep_file(self, path: Path) -> Kept:
        """A file that is only read."""
        return self._keep(path, "files", True, 0o444)

    def findings(self) -> list[Finding]:
        """Every file that is not what it was, and whatever lies in the working folder."""
        changed = [finding for kept, identity in self._kept for finding in _changes(kept, identity)]
        return [*changed, *self._written()]

    def _keep(self, path: Path, folder: str, copied: bool, mode: int) -> Kept:
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise ConformError(f"{path}: not a regular file")
            copied = copied and self._has_room(path)
            used = self._copy(path, folder, mode) if copied else path
            # Before it is hashed: a file that changes meanwhile differs at the end.
            identity = _Identity.of(used)
        except OSError as error:
            raise ConformError(f"{path}: cannot be read: {error.strerror or error}") from error
        kept = Kept(path, used, file_sha256(used), copied)
        self._kept.append((kept, identity))
        return kept

    def _has_room(self, path: Path) -> bool:
        size = path.stat().st_size
        return size <= _LARGEST_COPY and 2 * size <= shutil.disk_usage(self._root).free

    def _copy(self, path: Path, folder: str, mode: int) -> Path:
        target = self._root / folder / path.name
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, target)
        target.chmod(mode)
        return target

    def _written(self) -> Iterator[Finding]:
        if not self.folder.is_dir():
            yield Finding("error", "working folder", "an empty folder", "no folder", "the runtime removed it")
            return
        found = sorted(os.listdir(self.folder))
        if found:
            shown = ", ".join(map(ascii, found[:_SHOWN])) + (", …" if len(found) > _SHOWN else "")
            hint = "the runtime left files behind where it ran"
            yield Finding("error", "working folder", "an empty folder", f"{len(found)} entries: {shown}", hint)


def _changes(kept: Kept, identity: _Identity) -> Iterator[Finding]:
    name = kept.original.name
    hint = "the file changed while it was judged, or the runtime changed the files it was given"
    try:
        after = _Identity.of(kept.path)
        sha256 = file_sha256(kept.path)
    except (OSError, ConformError):
        yield Finding("error", name, f"the file with sha256 {kept.sha256}", "no readable file", hint)
        return
    if sha256 != kept.sha256:
        yield Finding("error", name, f"sha256 {kept.sha256}", f"sha256 {sha256}", hint)
    elif after != identity:
        found = "the same content, written anew, moved or given other permissions meanwhile"
        yield Finding("error", name, "an untouched file", found, hint)


def _runs_anywhere(program: Path) -> bool:
    """Whether it is a binary that does not look for libraries beside itself; of a script nobody can tell."""
    try:
        with program.open("rb") as file:
            if not file.read(4).startswith(_BINARY):
                return False
            file.seek(0)
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                return all(content.find(word) < 0 for word in _ORIGIN)
    except OSError as error:
        raise ConformError(f"{program}: cannot be read: {error.strerror}") from error
