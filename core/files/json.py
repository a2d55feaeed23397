"""JSON file: one object, read within bounds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conform.contract.bounded import read_bounded
from conform.contract.errors import InputError

__all__ = ["read_json_object"]

_LARGEST_JSON = 100 << 20


def read_json_object(path: Path, what: str, *, largest: int = _LARGEST_JSON, advice: str = "") -> Mapping[str, Any]:
    """The JSON object in a file of at most `largest` bytes; `what` names what is expected there.

    Raises InputError, with `advice` at its end, for anything else.
    """
    content = read_bounded(path, largest, what, advice=advice)
    tail = f"; {advice}" if advice else ""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not {what}: not JSON: {str(error)[:80]}{tail}") from error
    if not isinstance(data, dict):
        raise InputError(f"{path}: not {what}: expected a JSON object, found {type(data).__name__}{tail}")
    return data
