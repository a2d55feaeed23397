"""TOML: read within bounds, and written so that it reads back to the same values."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from conform.contract.bounded import read_bounded
from conform.contract.errors import InputError

__all__ = ["parse_toml", "read_toml", "toml_text"]

# A config or contract is a page of text; anything larger is something else.
_LARGEST_FILE = 1 << 20
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def read_toml(path: Path, what: str) -> dict[str, Any]:
    """The tables of a TOML file of at most 1 MiB; `what` names what is expected there, such as "a contract".

    Raises InputError when it cannot be read or is not TOML.
    """
    return parse_toml(read_bounded(path, _LARGEST_FILE, what), str(path))


def parse_toml(content: bytes, where: str) -> dict[str, Any]:
    """The tables that this TOML holds.

    Raises InputError, which begins with `where`, for anything else.
    """
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # what tomllib raises, and what it lets through
        raise InputError(f"{where}: not a TOML file: {error}") from error


def toml_text(values: Mapping[str, Any]) -> str:
    """TOML that reads back to these values: strings, numbers and booleans, tables of them, and lists of tables."""
    return "\n".join(_table(values, "")).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], name: str) -> Iterator[str]:
    """The lines of a table: its own values first, for what follows a header belongs to that header's table."""
    for key, value in values.items():
        if not isinstance(value, Mapping | list | tuple):
            yield f"{_key(key)} = {_scalar(value)}"
    for key, value in values.items():
        inner = f"{name}.{_key(key)}".removeprefix(".")
        if isinstance(value, Mapping):
            yield from ("", f"[{inner}]", *_table(value, inner))
        elif isinstance(value, Sequence) and not isinstance(value, str):
            for item in value:
                yield from ("", f"[[{inner}]]", *_table(item, inner))


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _scalar(key)


def _scalar(value: object) -> str:
    if isinstance(value, float):
        return repr(value)  # TOML writes nan and inf as Python does, and JSON does not
    # Otherwise as in JSON, but that TOML wants DEL escaped, and knows no surrogate pairs, which JSON escapes into.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
