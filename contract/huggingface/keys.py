"""Keys: each key of a config.json is understood, known to be irrelevant, or refused by name."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.huggingface.family import Families, Family, Irrelevant, Only
from conform.contract.mapping import shown

__all__ = ["Ignored", "ignored_keys"]

# A hostile file may have a million keys, and one sentence has room for a few.
_MOST_NAMED = 8


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key that decides nothing in the contract, its value as JSON, and why it decides nothing."""

    key: str
    value: Any
    why: str


def ignored_keys(config: Mapping[str, Any], family: Family, families: Families, where: str) -> tuple[Ignored, ...]:
    """The irrelevant keys of the configuration, with their reasons.

    Raises ContractError naming the keys that conform does not know, or one that says what no contract expresses.
    """
    meanings = _meanings(family, families)
    unknown = sorted(key[:80] for key in config if key not in meanings and key not in families.understood)
    if unknown:
        more = f" and {len(unknown) - _MOST_NAMED} more" if len(unknown) > _MOST_NAMED else ""
        raise ContractError(
            f"{where}: unknown key {', '.join(unknown[:_MOST_NAMED])}{more}: conform does not know what it decides; if "
            "it changes nothing that the model computes, remove it from a copy, or name the contract with --contract"
        )
    return tuple(_ignored(config, meanings, where))


def _meanings(family: Family, families: Families) -> dict[str, Only | Irrelevant]:
    listed: list[Only | Irrelevant] = [*families.only, *families.irrelevant, *family.only, *family.irrelevant]
    return {key: meaning for meaning in listed for key in meaning.keys}


def _ignored(config: Mapping[str, Any], meanings: Mapping[str, Only | Irrelevant], where: str) -> Iterator[Ignored]:
    for key, value in config.items():
        meaning = meanings.get(key)
        if isinstance(meaning, Irrelevant):
            yield Ignored(key, value, meaning.why)
        elif meaning is not None and not meaning.allows(value):
            raise ContractError(f"{where}: {key} = {shown(value)}: expected {meaning.expected}; {meaning.why}")
