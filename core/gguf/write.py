"""GGUF writer: the header's bytes from typed facts, and a file that appears complete or not at all."""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from conform.core.errors import ExportError
from conform.core.gguf.types import ValueType
from conform.core.metadata import KeyValue
from conform.core.quantizer import Packed

__all__ = ["ALIGNMENT", "PartialFile", "TensorEntry", "align", "encode_header"]

ALIGNMENT = 32
"""What every file that is written here is aligned to; it is stated in `general.alignment` nevertheless."""

_VERSION = 3
_SCALARS: Mapping[ValueType, str] = {
    ValueType.UINT8: "<B",
    ValueType.INT8: "<b",
    ValueType.UINT16: "<H",
    ValueType.INT16: "<h",
    ValueType.UINT32: "<I",
    ValueType.INT32: "<i",
    ValueType.FLOAT32: "<f",
    ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q",
    ValueType.INT64: "<q",
    ValueType.FLOAT64: "<d",
}


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor's descriptor: shape in PyTorch's order, rows first; offset from the start of the data."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int
    offset: int


def align(position: int, alignment: int = ALIGNMENT) -> int:
    """The first aligned position at or behind that one."""
    return -(-position // alignment) * alignment


def encode_header(metadata: Mapping[str, KeyValue], tensors: Sequence[TensorEntry], alignment: int) -> bytes:
    """Everything before the tensor data, padding included.

    Raises ExportError naming a key whose value does not fit its type.
    """
    parts = [b"GGUF", struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_string(key), _key_value(key, value)]
    for tensor in tensors:
        dimensions = tensor.shape[::-1]
        parts.append(_string(tensor.name))
        parts.append(
            struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, tensor.ggml_type, tensor.offset)
        )
    header = b"".join(parts)
    return header.ljust(align(len(header), alignment), b"\0")


def _key_value(key: str, value: KeyValue) -> bytes:
    try:
        if value.item is None:
            return struct.pack("<I", value.kind) + _scalar(value.kind, value.value)
        assert isinstance(value.value, tuple)
        items = b"".join(_scalar(value.item, item) for item in value.value)
        return struct.pack("<IIQ", ValueType.ARRAY, value.item, len(value.value)) + items
    except (struct.error, OverflowError, AttributeError, UnicodeEncodeError) as error:
        raise ExportError(f"{key}: {value.value!r:.80} does not fit {value.kind.name.lower()}: {error}") from error


def _scalar(kind: ValueType, value: object) -> bytes:
    return _string(str(value)) if kind is ValueType.STRING else struct.pack(_SCALARS[kind], value)


def _string(text: str) -> bytes:
    content = text.encode("utf-8", "surrogateescape")
    return struct.pack("<Q", len(content)) + content


class PartialFile:
    """A file under construction, `.NAME.partial` in the folder of `target`; only `publish` gives it its name.

    As a context manager it removes what was not published; one that is `resumable` stays after an interrupt, and is
    found again by the next one of that size. Writes go to absolute offsets, so any order will do, and threads need no
    lock. Every failure of the disk is an ExportError of one sentence.
    """

    def __init__(self, target: Path, size: int, *, resumable: bool = False) -> None:
        self.target = target
        self.path = target.with_name(f".{target.name}.partial")
        self.found = False
        """True when what an interrupted export left behind was taken up."""
        self._size = size
        self._resumable = resumable
        self._fd = -1
        self._published = False

    def __enter__(self) -> "PartialFile":
        with _disk_errors(self.target):
            self.target.parent.mkdir(parents=True, exist_ok=True)
            # A link under that name would lead the writes to another file.
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            self._lock()
            try:
                self.found = self._resumable and os.fstat(self._fd).st_size == self._size
                if not self.found:
                    self.clear()
            except BaseException:
                self._discard()
                raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        interrupted = kind is not None and not issubclass(kind, Exception)
        if self._resumable and interrupted:
            self._close()
        elif not self._published:
            self._discard()

    def write(self, offset: int, content: bytes | Packed) -> None:
        """Put bytes at an absolute offset."""
        view = memoryview(content.data if not isinstance(content, bytes) else content)
        with _disk_errors(self.target):
            while view.nbytes:
                written = os.pwrite(self._fd, view, offset)
                view = view[written:]
                offset += written

    def clear(self) -> None:
        """Make every byte zero.

        Raises ExportError when the disk has no room for the file.
        """
        with _disk_errors(self.target):
            os.ftruncate(self._fd, 0)
            free = shutil.disk_usage(self.target.parent).free
            if free < self._size:
                raise ExportError(
                    f"{self.target}: needs {self._size:,} bytes, but only {free:,} are free in {self.target.parent}"
                )
            os.ftruncate(self._fd, self._size)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from an absolute offset; fewer where the file ends."""
        with _disk_errors(self.target):
            return os.pread(self._fd, size, offset)

    def sync(self) -> None:
        """Return when the bytes are on the disk."""
        with _disk_errors(self.target):
            os.fsync(self._fd)

    def publish(self) -> None:
        """Give the file its name, replacing an older one in the same instant."""
        with _disk_errors(self.target):
            os.replace(self.path, self.target)
            self._published = True
            self._close()
            folder = os.open(self.target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _lock(self) -> None:
        # What a killed export left behind is overwritten; what another one is writing is not.
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between opening and locking, the other one may have published what was opened.
            ours = self.path.exists() and os.path.samestat(os.fstat(self._fd), self.path.stat())
        except BlockingIOError:
            ours = False
        if not ours:
            self._close()
            raise ExportError(f"{self.target}: another export is writing this file")

    def _discard(self) -> None:
        # Removed while the lock is held: afterwards the name may be another export's.
        self.path.unlink(missing_ok=True)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@contextlib.contextmanager
def _disk_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "; free some space, or choose another place with -o" if error.errno == errno.ENOSPC else ""
        raise ExportError(f"{target}: cannot be written: {error.strerror}{advice}") from error
