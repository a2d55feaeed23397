"""Project: a complete, installable plugin, copied from the template under the author's name."""

import importlib.util
import keyword
import re
import tempfile
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from conform.core.errors import PluginError

__all__ = ["new_project", "project_files"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def project_files(name: str) -> dict[str, str]:
    """Path → text of the files of a plugin of that name.

    Raises PluginError for a name that cannot be a distribution's and, with `_` for `-`, a module's.
    """
    if not _NAME.fullmatch(name):
        raise PluginError(f"{name}: expected words of lower-case letters and digits joined by '-', as in my-quantizer")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or importlib.util.find_spec(module) is not None:
        raise PluginError(f"{name}: Python has a module or keyword {module} already; choose another name")
    files = _files(resources.files("conform.plugins").joinpath("template"), PurePosixPath())
    return {_renamed(path, name): _renamed(file.read_text("utf-8"), name) for path, file in files}


def new_project(name: str, parent: Path) -> Path:
    """Write the plugin into the folder `parent/name`, which appears complete or not at all.

    Raises PluginError for an unusable name, or when the folder exists or cannot be written.
    """
    files, target = project_files(name), parent / name
    if target.exists():
        raise PluginError(f"{target}: exists already; choose another name or folder")
    try:
        # Beside the target, so that the move is a rename.
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{name}.") as temporary:
            folder = Path(temporary) / name
            for path, text in files.items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (folder / path).write_text(text, "utf-8")
            folder.rename(target)
    except OSError as error:
        raise PluginError(f"{target}: cannot be written: {error.strerror}") from error
    return target


def _files(folder: Traversable, prefix: PurePosixPath) -> Iterator[tuple[str, Traversable]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _files(entry, prefix / entry.name)
        elif entry.is_file() and entry.name.endswith((".py", ".toml", ".md")):
            yield (prefix / entry.name).as_posix(), entry


def _renamed(text: str, name: str) -> str:
    module = name.replace("-", "_")
    words = "".join(word.capitalize() for word in name.split("-"))
    text = text.replace("template-quantizer", name).replace("template_quantizer", module)
    return text.replace("TemplateQuantizer", words)
