"""Store: the checkpoints of a run, written whole or not at all, the newest valid one found, old ones removed."""

import dataclasses
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from conform.contract.spec import Contract
from conform.core.checkpoint.sidecar import Sidecar, listed_path, read_sidecar, write_sidecar
from conform.core.files.atomic import sync_path
from conform.core.files.digest import file_sha256
from conform.trainer.checkpoints.snapshot import Snapshot
from conform.trainer.checkpoints.state import TrainState, read_state
from conform.trainer.config import TrainConfig
from conform.trainer.errors import InputError, TrainError

__all__ = ["CheckpointStore", "Found", "Torn"]

_NAME = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True, slots=True)
class Torn:
    """A checkpoint that must not be resumed from, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Found:
    """The newest checkpoint whose every hash is right, and the newer ones that were passed over."""

    path: Path | None
    state: TrainState | None
    torn: tuple[Torn, ...]


class CheckpointStore:
    """The folder RUN/checkpoints. Only the first process of a run calls what changes it."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def path(self, step: int) -> Path:
        """The checkpoint of that step."""
        return self.folder / f"step-{step:08d}"

    def temporary(self, step: int) -> Path:
        """Where the checkpoint of that step is put together."""
        return self.folder / f".step-{step:08d}.tmp"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, oldest first, valid or not."""
        if not self.folder.is_dir():
            return []
        return sorted(int(m[1]) for entry in self.folder.iterdir() if (m := _NAME.fullmatch(entry.name)))

    def newest(self) -> Found:
        """Look from the newest checkpoint back to the first that is complete and unchanged."""
        torn: list[Torn] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return Found(path, _verified(path, step), tuple(torn))
            except (InputError, TrainError) as error:
                torn.append(Torn(path, str(error)))
        return Found(None, None, tuple(torn))

    def sweep(self) -> None:
        """Remove what an interrupted save left behind."""
        if self.folder.is_dir():
            for left in self.folder.glob(".step-*"):
                _remove(left)

    def commit(self, snapshot: Snapshot, contract: Contract, trainer: Mapping[str, Any]) -> Path:
        """Hash the files of the temporary folder, write the sidecar last, and give the folder its name.

        Raises TrainError when the folder cannot be written, CheckpointError when the sidecar cannot.
        """
        state = snapshot.state
        temporary, final = self.temporary(state.step), self.path(state.step)
        try:
            hashes = _hashes(temporary)
            resume = {name: digest for name, digest in hashes.items() if name.startswith("resume/")}
            sidecar = Sidecar(
                contract=contract,
                contract_digest=contract.digest,
                files={name: digest for name, digest in hashes.items() if name not in resume},
                tokenizer_digest=state.tokenizer_digest,
                data_digest=state.data_digest,
                step=state.step,
                tokens=state.tokens,
                trainer={**trainer, "config": dict(state.config), "resume": resume},
            )
            write_sidecar(temporary, sidecar)
            sync_path(temporary / "resume")
            sync_path(temporary)
            _replace_folder(temporary, final)
            sync_path(self.folder)
        except OSError as error:
            raise TrainError(f"{final}: cannot be written: {error.strerror}") from error
        return final

    def annotate(self, step: int, held_out: Mapping[str, float]) -> None:
        """Add what the evaluation at that step found to its sidecar; nothing happens without such a checkpoint."""
        path = self.path(step)
        if (sidecar := read_sidecar(path)) is not None:
            write_sidecar(path, dataclasses.replace(sidecar, held_out=dict(held_out)))

    def prune(self, config: TrainConfig) -> None:
        """Remove all but the last `keep_last` checkpoints and those of steps divisible by `keep_every`."""
        if not config.keep_last:
            return
        for step in self.steps()[: -config.keep_last]:
            if not (config.keep_every and step % config.keep_every == 0):
                # Renamed first: a half-removed checkpoint must not look like one.
                gone = self.folder / f".step-{step:08d}.old"
                os.replace(self.path(step), gone)
                shutil.rmtree(gone, ignore_errors=True)


def _verified(path: Path, step: int) -> TrainState:
    sidecar = read_sidecar(path)
    if sidecar is None:
        raise TrainError(f"{path}: incomplete: conform.json, which is written last, is missing")
    resume = (sidecar.trainer or {}).get("resume")
    if not _is_text_table(resume) or "resume/state.json" not in resume:
        raise TrainError(f"{path}: was not written by conform's trainer; there is nothing to resume from")
    for name, expected in {**sidecar.files, **resume}.items():
        if (found := file_sha256(listed_path(path, name))) != expected:
            raise TrainError(f"{path / name}: expected sha256 {expected!s:.16}…, found {found[:16]}…")
    state = read_state(path / "resume/state.json")
    if not state.step == sidecar.step == step:
        raise TrainError(f"{path}: holds step {state.step}, its sidecar says {sidecar.step}")
    return state


def _is_text_table(value: object) -> TypeGuard[dict[str, str]]:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _remove(path: Path) -> None:
    # A link in the place of the folder would lead the next save to another one.
    if path.is_symlink() or not path.is_dir():
        path.unlink(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _replace_folder(source: Path, target: Path) -> None:
    aside = target.with_name(f".{target.name}.old")
    if target.exists():
        os.replace(target, aside)
    os.replace(source, target)
    shutil.rmtree(aside, ignore_errors=True)
