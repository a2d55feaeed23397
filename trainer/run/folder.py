"""Folder: what a run's folder holds besides its checkpoints and metrics, and who may write there."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata, resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from conform.contract.mapping import from_mapping, to_mapping
from conform.contract.spec import Contract
from conform.core.files.atomic import write_atomically
from conform.core.files.json import read_json_object
from conform.core.files.lock import FolderLock
from conform.core.tokenizer.tokenizer import read_tokenizer
from conform.trainer.config import TrainConfig, config_to_toml, read_config
from conform.trainer.data.manifest import manifest_digest, read_manifest
from conform.trainer.errors import ConformError, InputError, TrainError

__all__ = ["RunFolder", "RunRecord", "code_digest", "code_version", "tokenizer_of"]

_RECORD, _CONFIG, _COMPLETE, _TOKENIZER = "run.json", "config.toml", "complete.json", "tokenizer.model"
_CHECKPOINTS = "checkpoints"
_UNFINISHED = re.compile(r"\.(run\.json|config\.toml|tokenizer\.model)\.[0-9a-f]+\.part")


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a run is bound to: contract, configuration and data; with it and a checkpoint a run can go on."""

    contract: Contract
    config: TrainConfig
    data: Path
    tokenizer: bytes
    data_digest: str

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of tokenizer.model."""
        return hashlib.sha256(self.tokenizer).hexdigest()


@dataclass(frozen=True, slots=True)
class _StoredRecord:
    """run.json: the digest of each thing beside the thing itself or the place where it lies."""

    contract: Contract
    contract_digest: str
    data: str
    data_digest: str
    tokenizer_digest: str


class RunFolder:
    """RUN: run.json, config.toml, tokenizer.model, metrics.jsonl, checkpoints/, and complete.json at the end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FolderLock(path)

    def exists(self) -> bool:
        """True when a run was begun here."""
        return (self.path / _RECORD).is_file()

    def create(self, record: RunRecord) -> None:
        """Begin a run here, also where another process was killed while it began one.

        Raises TrainError when there is one already, other files are in the way, or the folder cannot be written.
        """
        if self.exists():
            raise TrainError(
                f"{self.path}: holds a run already; go on with --resume {self.path}, or choose another --out"
            )
        with self._disk_errors():
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            if not self._was_being_created():
                raise TrainError(f"{self.path}: holds other files; choose an empty folder for --out")
            # First, for it tells a folder that was being created from one of somebody else.
            (self.path / _CHECKPOINTS).mkdir(exist_ok=True)
            write_atomically(self.path / _TOKENIZER, record.tokenizer)
            self.update(record)

    def _was_being_created(self) -> bool:
        """True for an empty folder, and for one with nothing but what `create` writes before run.json."""
        names = {path.name for path in self.path.iterdir()}
        ours = {name for name in names if name in (_CHECKPOINTS, _CONFIG, _TOKENIZER) or _UNFINISHED.fullmatch(name)}
        checkpoints = self.path / _CHECKPOINTS
        return not names or (names == ours and checkpoints.is_dir() and not any(checkpoints.iterdir()))

    def lock(self, patience: float = 0.0) -> None:
        """Keep other processes from training here until `unlock`, or until this process ends, however it does.

        Raises TrainError when one trains here already, and still does after `patience` seconds. On file systems that
        have no locks nothing is kept from anyone.
        """
        if not self._lock.acquire(patience):
            raise TrainError(f"{self.path}: another process is training there; wait until it ends, or stop it")

    def unlock(self) -> None:
        """Let other processes train here."""
        self._lock.release()

    def update(self, record: RunRecord) -> None:
        """Write config.toml and run.json; the latter last, for it makes the folder a run.

        Raises TrainError when they cannot be written.
        """
        stored = _StoredRecord(
            contract=record.contract,
            contract_digest=record.contract.digest,
            data=str(record.data.resolve()),
            data_digest=record.data_digest,
            tokenizer_digest=record.tokenizer_digest,
        )
        settings = "# The resolved settings of this run.\n" + config_to_toml(record.config)
        with self._disk_errors():
            write_atomically(self.path / _CONFIG, settings.encode())
            write_atomically(self.path / _RECORD, (json.dumps(to_mapping(stored), indent=1) + "\n").encode())

    def read_record(self) -> RunRecord:
        """The run's record as it was written: its data may have moved or changed since.

        Raises TrainError when the folder holds no run or its parts do not belong together, InputError for damaged ones.
        """
        if not self.exists():
            raise TrainError(f"{self.path}: holds no run: there is no {self.path / _RECORD}")
        path = self.path / _RECORD
        stored = from_mapping(_StoredRecord, read_json_object(path, "the record of a run"), str(path))
        tokenizer = read_tokenizer(self.path / _TOKENIZER)
        config = read_config(str(self.path / _CONFIG))
        record = RunRecord(stored.contract, config, Path(stored.data), tokenizer, stored.data_digest)
        _require_digest(path, "contract", record.contract.digest, stored.contract_digest)
        _require_digest(self.path / _TOKENIZER, "tokenizer", record.tokenizer_digest, stored.tokenizer_digest)
        return record

    def read(self, data: Path | None = None) -> RunRecord:
        """The run's record, with its data found at `data` when they were moved.

        Raises TrainError when the folder holds no run, or data or tokenizer are not those that it began with.
        """
        record = self.read_record()
        found = data or record.data
        if data is None and not record.data.is_dir():
            raise TrainError(
                f"{record.data}: the run's data are no longer there; say with --data where they are now, or build them "
                "again from the same text"
            )
        _require_digest(found, "data", manifest_digest(found), record.data_digest)
        return dataclasses.replace(record, data=found)

    def finish(self, values: dict[str, Any]) -> None:
        """Mark the run complete, so that nothing restarts it. Raises TrainError when that cannot be written."""
        with self._disk_errors():
            write_atomically(self.path / _COMPLETE, (json.dumps(values, indent=1) + "\n").encode())

    def finished(self) -> dict[str, Any] | None:
        """What `finish` wrote, or None while the run is not complete."""
        try:
            return dict(read_json_object(self.path / _COMPLETE, "the end of a run"))
        except InputError:
            return None

    def reopen(self) -> None:
        """Take the mark away: the run is to become longer. Raises TrainError when it cannot be."""
        with self._disk_errors():
            (self.path / _COMPLETE).unlink(missing_ok=True)

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise TrainError(f"{self.path}: cannot be written: {error.strerror}") from error


def _require_digest(where: Path, what: str, seen: str, expected: str) -> None:
    if seen != expected:
        raise TrainError(
            f"{where}: {what} digest is {seen[:16]}…, but the run began with {expected[:16]}…; a run continues only on "
            "what it began with"
        )


def tokenizer_of(data: Path, contract: Contract) -> bytes:
    """The tokenizer.model beside token shards.

    Raises TrainError when it is not the one of the manifest, or not the one of the contract.
    """
    if contract.tokenizer.model != "bpe":
        raise TrainError(
            f"contract {contract.name} has a {contract.tokenizer.model} tokenizer; conform trains with SentencePiece "
            'models only, tokenizer.model = "bpe"'
        )
    manifest = read_manifest(data)
    path = data / _TOKENIZER
    content = read_tokenizer(path)
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.tokenizer_sha256:
        raise TrainError(
            f"{path}: sha256 {found[:16]}…, but the shards were made with {manifest.tokenizer_sha256[:16]}…"
        )
    if contract.tokenizer.sha256 and found != contract.tokenizer.sha256:
        raise TrainError(
            f"{path}: sha256 {found[:16]}…, but contract {contract.name} demands {contract.tokenizer.sha256[:16]}…"
        )
    wanted = (contract.model.vocab, contract.tokenizer.bos_id, contract.tokenizer.eos_id)
    if (manifest.vocab, manifest.bos_id, manifest.eos_id) != wanted:
        raise TrainError(
            f"{data}: vocabulary {manifest.vocab}, BOS {manifest.bos_id}, EOS {manifest.eos_id}; contract "
            f"{contract.name} expects {', '.join(map(str, wanted))}: train the tokenizer with "
            f"--vocab {contract.model.vocab}"
        )
    return content


def code_digest(package: Traversable) -> str:
    """sha256 of every Python source of a package, sub-packages included, with its path inside the package."""
    digest = hashlib.sha256()
    for path, source in sorted(_sources(package, "")):
        digest.update(path.encode() + b"\0" + source + b"\0")
    return digest.hexdigest()


def _sources(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _sources(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".py"):
            yield prefix + entry.name, entry.read_bytes()


def code_version() -> dict[str, str]:
    """The version of the package and a digest of the trainer's source files."""
    code = code_digest(resources.files("conform.trainer"))
    try:
        version = metadata.version("gguf-conform")
    except metadata.PackageNotFoundError as error:
        raise ConformError("gguf-conform is not installed; pip install it, or `pip install -e .` in a clone") from error
    return {"version": version, "code": code}
