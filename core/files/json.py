"""JSON file: one object, read within bounds."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conform.contract.bounded import read_bounded
from conform.contract.errors import InputError
from conform.core.files.sight import HEAD, mistaken

__all__ = ["parse_json_object", "read_json_object"]

_LARGEST_JSON = 100 << 20
_DEEPEST = 64
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_json_object(path: Path, what: str, *, largest: int = _LARGEST_JSON, advice: str = "") -> Mapping[str, Any]:
    """The JSON object in a file of at most `largest` bytes; `what` names what is expected there.

    Raises InputError, with `advice` at its end, for anything else: NaN and infinity, a name that occurs twice in one
    object, and halves of surrogate pairs are not JSON here.
    """
    return parse_json_object(read_bounded(path, largest, what, advice=advice), path, what, advice=advice)


def parse_json_object(content: bytes, path: Path, what: str, *, advice: str = "") -> Mapping[str, Any]:
    """The same of bytes that were read already; `path` names them in errors."""
    tail = f"; {advice}" if advice else ""
    try:
        data = json.loads(content, parse_constant=_no_number, object_pairs_hook=_without_duplicates)
        _refuse_depth(data)
        if _SURROGATE.search(content):
            _refuse_half_pairs(data)
    except (ValueError, RecursionError) as error:
        reason = mistaken(content[:HEAD], what) if content[:1] not in b"[{" else ""
        raise InputError(f"{path}: {reason or f'not {what}: not JSON: {str(error)[:80]}'}{tail}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not {what}: expected a JSON object, found {type(data).__name__}{tail}")
    return data


def _refuse_half_pairs(data: object) -> None:
    # Python reads them, and nothing can write them again.
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError("half of a surrogate pair, which no UTF-8 can express") from error


def _refuse_depth(data: object) -> None:
    # What json reads, others that recurse over it cannot always bear.
    level = [data]
    for _ in range(_DEEPEST):
        level = [item for held in level for item in _items(held)]
        if not level:
            return
    raise ValueError(f"more than {_DEEPEST} objects and lists inside each other")


def _items(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number that JSON knows")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice[:40]!r} occurs twice in one object")
    return result
