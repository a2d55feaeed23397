"""Extras: which optional part of the installation brings a module, and the command that installs it."""

from collections.abc import Mapping

__all__ = ["EXTRAS", "missing_extra"]

EXTRAS: Mapping[str, str] = {
    "torch": "torch",
    "pyarrow": "data",
    "zstandard": "data",
    "jinja2": "report",
    "matplotlib": "report",
    "tensorboard": "report",
    "hypothesis": "kit",
    "transformers": "hf",
    "tokenizers": "hf",
}
"""The top-level modules that the code imports where it uses them, each with its extra in pyproject.toml."""


def missing_extra(error: BaseException) -> str:
    """One sentence with the command to type when a module of an extra is missing, "" for any other error."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return ""
    module = error.name.partition(".")[0]
    if module not in EXTRAS:
        return ""
    return f"this needs {module}, which is not installed: pip install 'gguf-conform[{EXTRAS[module]}]'"
