"""Zstd stream: the decompressed bytes of a .zst file, and an error where the file was cut off.

The library's own stream reader takes the end of the file for the end of the text, wherever that is.
"""

import io
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

__all__ = ["ZstdStream"]

# Of the file, read at a time. A block of four bytes can hold 128 KiB, so this bounds what one read decompresses to.
_COMPRESSED = 1 << 10


class ZstdStream(io.RawIOBase):
    """The frames of `raw` one after another.

    Reading raises zstandard.ZstdError for a damaged frame, and EOFError for a file that ends within one.
    """

    def __init__(self, raw: IO[bytes]) -> None:
        import zstandard

        self._raw = raw
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._compressed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the buffer as far as one read of the file goes; 0 at the end."""
        while not self._ready:
            if not self._advance():
                return 0
        target = memoryview(buffer).cast("B")
        count = min(len(target), len(self._ready))
        target[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _advance(self) -> bool:
        self._compressed = self._compressed or self._raw.read(_COMPRESSED)
        if not self._compressed:
            if self._frame is not None:
                raise EOFError("the file ends in the middle of a frame")
            return False
        frame = self._frame or self._new_frame()
        self._ready = memoryview(frame.decompress(self._compressed))
        self._compressed = frame.unused_data if frame.eof else b""
        self._frame = None if frame.eof else frame
        return True
