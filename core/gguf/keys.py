"""Keys: those of a GGUF file's architecture, each checked when it is read."""

import math
from collections.abc import Container

from conform.core.errors import GGUFError
from conform.core.gguf.read import GGUFFile

__all__ = ["ModelKeys"]


class ModelKeys:
    """The keys below `general.architecture`; every reader raises GGUFError naming the key that will not do."""

    def __init__(self, file: GGUFFile) -> None:
        self._file = file
        self.architecture = str(file.metadata.get("general.architecture", ""))

    def text(self, name: str, default: str) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise GGUFError(f"{self._place(name)} = {value!r:.80}: expected a text")
        return value

    def refuse_others(self, group: str, known: Container[str]) -> None:
        """Pass when no key of the group is unknown: one would change what is computed."""
        for key in self._file.metadata:
            name = key.removeprefix(f"{self.architecture}.")
            if name != key and name.startswith(f"{group}.") and name not in known:
                raise GGUFError(f"{self._place(name)} has no reference implementation")

    def whole(self, name: str, default: int | None = None) -> int:
        value = self._value(name, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise GGUFError(f"{self._place(name)} = {value!r}: expected a whole number of at least 1")
        return value

    def number(self, name: str, default: float | None = None) -> float:
        value = self._value(name, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not (math.isfinite(value) and value > 0):
            raise GGUFError(f"{self._place(name)} = {value!r}: expected a positive number")
        return float(value)

    def shape(self, tensor: str) -> tuple[int, int]:
        info = self._file.tensors.get(tensor)
        if info is None or len(info.shape) != 2:
            raise GGUFError(f"{self._file.path}: expected a matrix {tensor}, found {info and info.shape}")
        return info.shape[0], info.shape[1]

    def _value(self, name: str, default: float | str | None) -> object:
        value = self._file.metadata.get(f"{self.architecture}.{name}", default)
        if value is None:
            raise GGUFError(f"{self._place(name)} is missing")
        return value

    def _place(self, name: str) -> str:
        return f"{self._file.path}: {self.architecture}.{name}"
