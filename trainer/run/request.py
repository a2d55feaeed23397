"""Request: what `conform train` was asked for, and what can be refused before torch is imported."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conform.contract.load import load_contract
from conform.trainer.config import TrainConfig, read_config, with_values
from conform.trainer.data.manifest import read_manifest
from conform.trainer.errors import TrainError
from conform.trainer.run.folder import RunFolder

__all__ = ["Request", "is_worker", "refuse_hopeless", "settings"]


@dataclass(frozen=True, slots=True)
class Request:
    """What was typed; `values` are the settings given as options."""

    out: Path
    resume: bool
    contract: str | None
    data: Path | None
    config: str | None
    values: Mapping[str, Any]


def settings(request: Request) -> TrainConfig:
    """The settings before anything about the run is known: enough to join the other processes."""
    folder = RunFolder(request.out)
    if request.resume and folder.exists():
        return with_values(read_config(str(folder.path / "config.toml")), request.values, "command line")
    base = read_config(request.config) if request.config else TrainConfig()
    return with_values(base, request.values, "command line")


def is_worker() -> bool:
    """True when torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ or int(os.environ.get("WORLD_SIZE", "1")) > 1


def refuse_hopeless(request: Request) -> None:
    """Raise the ConformError that the run would end with, where files and options alone show it."""
    settings(request)
    if request.resume:
        RunFolder(request.out).read_record()
        return
    if request.contract is None or request.data is None:
        raise TrainError("--contract and --data are needed to begin a run (or --resume RUN to go on with one)")
    load_contract(request.contract)
    read_manifest(request.data)
