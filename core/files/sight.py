"""Sight: what a file is by its first bytes, for one sentence when it is not what was expected."""

import re

__all__ = ["HEAD", "mistaken"]

HEAD = 512
"""First bytes of a file that are enough to recognise it."""

_NO_PICKLES = "convert it to safetensors, because conform never unpickles"
# Pattern of the first bytes → what such a file is, and what to do. Safetensors come first: their length may look like
# the beginning of a pickle.
_SIGHTS = (
    (rb"(?s).{6}\0\0\{", "a safetensors file", ""),
    (rb"version https://git-lfs", "a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    (rb"GGUF", "a GGUF file", ""),
    (rb"PK\x03\x04", "a zip archive, in which PyTorch keeps pickles", _NO_PICKLES),
    (rb"\x80[\x02-\x05]", "a pickle", _NO_PICKLES),
    (rb"\x1f\x8b", "compressed by gzip", "decompress it"),
    (rb"\x28\xb5\x2f\xfd", "compressed by zstd", "decompress it"),
    (rb"(?i)\s*<(!doctype|html)", "a web page", "a server may have sent it in place of the file; download it again"),
    (rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n", "a tiktoken vocabulary", ""),
    (rb"\s*[\[{]", "a JSON text", ""),
)


def mistaken(head: bytes, expected: str, advice: str = "") -> str:
    """ "is A, not EXPECTED; what to do" for a file that begins with those bytes, "" when it is not known by sight.

    `advice` says what to do where that does not follow from what the file is.
    """
    for pattern, what, remedy in _SIGHTS:
        if re.match(pattern, head):
            todo = remedy or advice
            return f"is {what}, not {expected}" + (f"; {todo}" if todo else "")
    return ""
