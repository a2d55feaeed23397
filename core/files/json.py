"""JSON file: one object, read within bounds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from conform.core.errors import CheckpointError

__all__ = ["read_json_object"]

_LARGEST_JSON = 100 << 20


def read_json_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in a file.

    Raises CheckpointError for anything else.
    """
    try:
        if path.exists() and not path.is_file():
            raise CheckpointError(f"{path}: not a regular file")
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{path}: larger than {_LARGEST_JSON} bytes")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data
