"""Sidecar: conform.json, which binds a checkpoint's files to its contract; docs/reference/formats.md describes it."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from conform.contract.mapping import Rule, from_mapping, to_mapping
from conform.contract.spec import Contract
from conform.core.errors import CheckpointError
from conform.core.files.atomic import write_atomically
from conform.core.files.json import read_json_object

__all__ = ["SIDECAR_NAME", "Sidecar", "listed_path", "read_sidecar", "write_sidecar"]

SIDECAR_NAME = "conform.json"

_FORMAT = 1
_Sha256 = Annotated[str, Rule("a sha256 in hexadecimal", re.compile(r"[0-9a-f]{64}").fullmatch)]


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a checkpoint says about itself. `files` maps names in its folder to their sha256."""

    contract: Contract
    contract_digest: _Sha256
    files: Mapping[str, _Sha256]
    tokenizer_digest: str | None = None
    data_digest: str | None = None
    step: int | None = None
    tokens: int | None = None
    held_out: Mapping[str, float] | None = None
    trainer: Mapping[str, Any] | None = None


def read_sidecar(folder: Path) -> Sidecar | None:
    """The sidecar of a checkpoint's folder, or None where there is none. Keys that it does not know are ignored.

    Raises InputError for one that is malformed, CheckpointError when its contract does not have the digest it states,
    or its list of files is empty or leads out of the folder.
    """
    path = folder / SIDECAR_NAME
    if not path.is_file():
        return None
    data = read_json_object(path, "a checkpoint's sidecar")
    if data.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format = {data.get('format')!r:.80}: this version reads format {_FORMAT}")
    sidecar = from_mapping(Sidecar, data, str(path), ignore_unknown=True)
    if sidecar.contract_digest != sidecar.contract.digest:
        raise CheckpointError(
            f"{path}: contract_digest is {sidecar.contract_digest}, but the contract beside it has "
            f"{sidecar.contract.digest}; the sidecar was edited or damaged"
        )
    if not sidecar.files:
        raise CheckpointError(f"{path}: files is empty; expected the sha256 of every file, or nothing shows a change")
    for name in sidecar.files:
        listed_path(folder, name)
    return sidecar


def listed_path(folder: Path, name: str) -> Path:
    """The file of that name in a checkpoint's folder.

    Raises CheckpointError for a name that leads out of the folder, be it by a link.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts or not _is_inside(folder, name):
        raise CheckpointError(
            f"{folder / SIDECAR_NAME}: files names {name!r:.200}, which lies outside the checkpoint; put the file "
            "itself into the folder"
        )
    return folder / name


def _is_inside(folder: Path, name: str) -> bool:
    # In a cache of downloads every file is a link, the sidecar too, and all lead to one other folder.
    try:
        homes = (folder.resolve(), (folder / SIDECAR_NAME).resolve().parent)
        return any((folder / name).resolve().is_relative_to(home) for home in homes)
    except (OSError, ValueError, RuntimeError):  # a NUL, a name that is too long, links in a circle
        return False


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write conform.json, complete or not at all; to be called last, because it makes the checkpoint complete.

    Raises CheckpointError when it cannot be written, or a measured number is NaN or infinite.
    """
    data: dict[str, object] = {"format": _FORMAT, **to_mapping(sidecar)}
    try:
        text = json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise CheckpointError(
            f"{folder / SIDECAR_NAME}: cannot hold NaN or infinity, found in {_culprit(data)}"
        ) from error
    try:
        write_atomically(folder / SIDECAR_NAME, text.encode())
    except OSError as error:
        raise CheckpointError(f"{folder / SIDECAR_NAME}: cannot be written: {error.strerror}") from error


def _culprit(data: Mapping[str, object]) -> str:
    def fails(value: object) -> bool:
        try:
            json.dumps(value, allow_nan=False)
        except ValueError:
            return True
        return False

    return ", ".join(key for key, value in data.items() if fails(value))
