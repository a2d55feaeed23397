"""Token: one that a file beside a tokenizer's model names, and how JSON spells it."""

from dataclasses import dataclass

from conform.contract.errors import InputError
from conform.contract.mapping import from_mapping, shown
from conform.core.errors import CheckpointError

__all__ = ["AddedToken", "StatedToken", "stated_token"]


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token with its id; a special one is a control piece, any other is user-defined."""

    id: int
    text: str
    special: bool

    def describe(self) -> str:
        """The token as a finding shows it."""
        return f"{self.text[:80]!r}, {'special' if self.special else 'not special'}"


@dataclass(frozen=True, slots=True)
class StatedToken:
    """A token as JSON states it; the flags say what text around it counts as part of it."""

    content: str
    id: int | None = None
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False

    def at(self, number: int, where: str) -> AddedToken:
        """The token at that id.

        Raises CheckpointError when the text of a prompt would be taken apart by its flags, which no runtime does.
        """
        flags = [flag for flag in ("lstrip", "rstrip", "single_word") if getattr(self, flag)]
        if flags and not self.special:
            raise CheckpointError(
                f"{where}: token {number} {self.content[:80]!r} has {flags[0]} = true without being special: a GGUF "
                "file cannot express it; set it to false if the model was trained without it"
            )
        return AddedToken(number, self.content, self.special)


def stated_token(value: object, where: str, key: str) -> StatedToken:
    """A token that is stated as a text, or as an object with `content`. Raises InputError naming file and key."""
    token = (
        StatedToken(value)
        if isinstance(value, str)
        else from_mapping(StatedToken, value, where, key, ignore_unknown=True)
    )
    if not token.content:
        raise InputError(f"{where}: {key} = {shown(value)}: expected the text of a token")
    return token
