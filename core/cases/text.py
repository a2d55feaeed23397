"""Hostile text: what tokenizers are known to get wrong, one file each below `texts/`."""

import json
from pathlib import Path

from conform.core.errors import ConformError

__all__ = ["TEXTS", "hostile_texts"]

TEXTS = Path(__file__).parent / "texts"


def hostile_texts(collection: str, root: Path = TEXTS) -> dict[str, str]:
    """The texts of a collection by id, such as `prompts/010-one-space`, in the order of their ids.

    Raises ConformError when the collection has no text, or naming the file that does not hold one JSON string.
    """
    files = sorted((root / collection).glob("*.json"))
    if not files:
        raise ConformError(f"{root / collection}: no hostile texts found, expected .json files; reinstall conform")
    return {f"{collection}/{file.stem}": _read_text(file) for file in files}


def _read_text(file: Path) -> str:
    try:
        text = json.loads(file.read_bytes())
    except ValueError as error:
        raise ConformError(f"{file}: not JSON: {error}, expected one JSON string") from error
    if not isinstance(text, str):
        raise ConformError(f"{file}: found a JSON {type(text).__name__}, expected one JSON string")
    return text
