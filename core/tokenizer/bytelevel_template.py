"""Template: what the `post_processor` of a tokenizer.json puts before and behind every text: BOS, EOS or nothing."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["surrounding_ids"]


def surrounding_ids(processor: Mapping[str, Any] | None, count: int) -> tuple[int, int]:
    """The id before and the id behind a text, -1 where there is none; `count` is the number of pieces.

    Raises ValueError for a processor that does anything else.
    """
    # The processor ByteLevel only moves offsets.
    parts = [part for part in _processors(processor) if part.get("type") != "ByteLevel"]
    if not parts:
        return -1, -1
    if len(parts) > 1 or parts[0].get("type") != "TemplateProcessing":
        names = ", ".join(str(part.get("type")) for part in parts)
        raise ValueError(f"its post_processor is {names:.80}, expected one TemplateProcessing")
    before, behind = _sides(parts[0])
    if len(before) > 1 or len(behind) > 1:
        raise ValueError("its post_processor puts more than BOS and EOS around a text")
    if wrong := [number for number in (*before, *behind) if not 0 <= number < count]:
        raise ValueError(f"its post_processor adds piece {wrong[0]}, but there are {count} pieces")
    return (*before, -1)[0], (*behind, -1)[0]


def _processors(processor: Mapping[str, Any] | None) -> Sequence[Mapping[str, Any]]:
    if not processor:
        return ()
    parts = processor.get("processors") if processor.get("type") == "Sequence" else [processor]
    if not isinstance(parts, list) or not all(isinstance(part, Mapping) for part in parts):
        raise ValueError("its post_processor is malformed")
    return parts


def _sides(template: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]]:
    """The ids before and behind the text."""
    sides: tuple[list[int], list[int]] = ([], [])
    texts = 0
    for part in _parts(template.get("single")):
        if "Sequence" in part:
            texts += 1
        else:
            sides[texts > 0].extend(_special_ids(part, template.get("special_tokens")))
    if texts != 1:
        raise ValueError(f"its post_processor has {texts} places for a text, expected one")
    return sides


def _parts(single: Any) -> Sequence[Mapping[str, Any]]:
    if not isinstance(single, list) or not all(isinstance(part, Mapping) for part in single):
        raise ValueError("its post_processor is malformed: `single` is not a list of objects")
    return single


def _special_ids(part: Mapping[str, Any], special: Any) -> Sequence[int]:
    token = part.get("SpecialToken")
    name = token.get("id") if isinstance(token, Mapping) else None
    entry = special.get(name) if isinstance(special, Mapping) and isinstance(name, str) else None
    ids = entry.get("ids") if isinstance(entry, Mapping) else None
    if not isinstance(ids, list) or not all(type(number) is int for number in ids):
        raise ValueError(f"its post_processor names {name!r:.40} without saying which ids that is")
    return ids
