"""Sidecar: conform.json, which binds a checkpoint's files to its contract; docs/reference/formats.md describes it."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.contract.errors import ContractError
from conform.contract.load import contract_from_mapping, contract_to_mapping
from conform.contract.spec import Contract
from conform.core.errors import CheckpointError
from conform.core.files.atomic import write_atomically
from conform.core.files.json import read_json_object

__all__ = ["SIDECAR_NAME", "Sidecar", "file_sha256", "read_sidecar", "write_sidecar"]

SIDECAR_NAME = "conform.json"

_FORMAT = 1
_CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What a checkpoint says about itself. `files` maps names in its folder to their sha256."""

    contract: Contract
    contract_digest: str
    files: Mapping[str, str]
    tokenizer_digest: str | None = None
    data_digest: str | None = None
    step: int | None = None
    tokens: int | None = None
    held_out: Mapping[str, float] | None = None
    trainer: Mapping[str, Any] | None = None


def file_sha256(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """sha256 of a file's content, streamed; `progress` is told the number of bytes of each step.

    Raises CheckpointError when the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                if progress is not None:
                    progress(len(chunk))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def read_sidecar(folder: Path) -> Sidecar | None:
    """The sidecar of a checkpoint's folder, or None where there is none.

    Raises CheckpointError for one that is malformed, or whose contract does not have the digest it states.
    """
    path = folder / SIDECAR_NAME
    if not path.is_file():
        return None
    data = _parse(path)
    try:
        contract = contract_from_mapping(_mapping(path, data, "contract"), "contract")
    except ContractError as error:
        raise CheckpointError(f"{path}: {error}") from error
    stated = _field(path, data, "contract_digest", str)
    if stated != contract.digest:
        raise CheckpointError(
            f"{path}: contract_digest is {stated}, but the contract beside it has {contract.digest}; "
            "the sidecar was edited or damaged"
        )
    return Sidecar(
        contract=contract,
        contract_digest=stated,
        files=_files(path, data),
        tokenizer_digest=_optional(path, data, "tokenizer_digest", str),
        data_digest=_optional(path, data, "data_digest", str),
        step=_optional(path, data, "step", int),
        tokens=_optional(path, data, "tokens", int),
        held_out=_optional(path, data, "held_out", dict),
        trainer=_optional(path, data, "trainer", dict),
    )


def write_sidecar(folder: Path, sidecar: Sidecar) -> None:
    """Write conform.json, complete or not at all; to be called last, because it makes the checkpoint complete.

    Raises CheckpointError when it cannot be written, or a measured number is NaN or infinite.
    """
    data: dict[str, object] = {"format": _FORMAT, "contract": contract_to_mapping(sidecar.contract)}
    data |= {"contract_digest": sidecar.contract_digest, "files": dict(sidecar.files)}
    for key in ("tokenizer_digest", "data_digest", "step", "tokens", "held_out", "trainer"):
        if (value := getattr(sidecar, key)) is not None:
            data[key] = value
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


def _parse(path: Path) -> Mapping[str, Any]:
    data = read_json_object(path)
    if data.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: format = {data.get('format')!r}: this version reads format {_FORMAT}")
    return data


def _files(path: Path, data: Mapping[str, Any]) -> Mapping[str, str]:
    files = _mapping(path, data, "files")
    for name, digest in files.items():
        if not isinstance(digest, str) or len(digest) != 64:
            raise CheckpointError(f"{path}: files[{name!r}] = {digest!r}: expected a sha256 in hexadecimal")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise CheckpointError(f"{path}: files names {name!r}, which lies outside the checkpoint")
    return dict(files)


def _mapping(path: Path, data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value: Mapping[str, Any] = _field(path, data, key, dict)
    return value


def _field(path: Path, data: Mapping[str, Any], key: str, kind: type) -> Any:
    if key not in data:
        raise CheckpointError(f"{path}: missing {key}")
    return _optional(path, data, key, kind)


def _optional(path: Path, data: Mapping[str, Any], key: str, kind: type) -> Any:
    value = data.get(key)
    if key in data and (not isinstance(value, kind) or isinstance(value, bool)):
        raise CheckpointError(f"{path}: {key} is of type {type(value).__name__}, expected {kind.__name__}")
    return value
