"""Request: what `conform train` was asked for, and all that it names, read once and before torch is imported."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from conform.contract.load import load_contract
from conform.contract.spec import Contract
from conform.trainer.config import MAY_CHANGE_ON_RESUME, TrainConfig, read_config, with_values
from conform.trainer.data.manifest import manifest_digest
from conform.trainer.distributed.torchrun import restarts
from conform.trainer.errors import TrainError
from conform.trainer.run.folder import RunFolder, RunRecord, tokenizer_of

__all__ = ["LoadedRequest", "Setting", "TrainRequest", "load_request"]

Setting = bool | int | float | str
"""The value of one setting of `TrainConfig`."""


@dataclass(frozen=True, slots=True)
class TrainRequest:
    """What was typed; `values` are the settings given as options."""

    out: Path
    resume: bool
    contract: str | None
    data: Path | None
    config: str | None
    values: Mapping[str, Setting]


@dataclass(frozen=True, slots=True)
class LoadedRequest:
    """The run that was asked for; `before` is its record as an earlier process left it, None for a new run.

    The settings in `record` may still say "auto": what that means depends on the device and the number of processes.
    """

    out: Path
    record: RunRecord
    before: RunRecord | None

    @property
    def settings(self) -> TrainConfig:
        """The settings that were asked for."""
        return self.record.config


def load_request(request: TrainRequest) -> LoadedRequest:
    """Read the contract, the settings, the tokenizer and the manifest that a request names.

    Raises the ConformError that the run would end with, wherever files and options alone show it.
    """
    folder = RunFolder(request.out)
    # torchrun restarts processes with the arguments of the first start.
    restarted = restarts() > 0 and folder.exists()
    if not (request.resume or restarted):
        return LoadedRequest(request.out, _new_record(request), None)
    before = folder.read(request.data)
    _refuse_other_contract(request, before)
    config = before.config if restarted else _changed(request, before.config)
    return LoadedRequest(request.out, dataclasses.replace(before, config=config), before)


def _new_record(request: TrainRequest) -> RunRecord:
    base = read_config(request.config) if request.config else TrainConfig()
    config = with_values(base, request.values, "command line")
    if request.contract is None or request.data is None:
        raise TrainError("--contract and --data are needed to begin a run (or --resume RUN to go on with one)")
    contract = load_contract(request.contract)
    _refuse_untrainable(contract)
    tokenizer = tokenizer_of(request.data, contract)
    return RunRecord(contract, config, request.data, tokenizer, manifest_digest(request.data))


def _refuse_untrainable(contract: Contract) -> None:
    if contract.model.linear == "ternary-stored":
        raise TrainError(
            f'{contract.name}: linear = "ternary-stored" holds no latent weights that training could change; '
            'train with "ternary"'
        )


def _changed(request: TrainRequest, before: TrainConfig) -> TrainConfig:
    """The settings of a resumed run. Raises TrainError for a change that would change what the run computes."""
    wanted = dict(request.values)
    if request.config:
        wanted = {**_differences(read_config(request.config, before), before), **wanted}
    same = {name for name, value in wanted.items() if getattr(before, name) == value}
    if refused := sorted(set(wanted) - same - MAY_CHANGE_ON_RESUME):
        raise TrainError(
            f"--{refused[0].replace('_', '-')}: was {getattr(before, refused[0])} when the run began, and a run "
            "that is resumed must go on as it began; begin a new one with --out"
        )
    return with_values(before, wanted, "command line")


def _differences(new: TrainConfig, old: TrainConfig) -> dict[str, Setting]:
    pairs = ((item.name, getattr(new, item.name)) for item in dataclasses.fields(TrainConfig))
    changed = {name: value for name, value in pairs if value != getattr(old, name)}
    # A file that gives the length in steps, or in tokens, leaves the other at 0, to be derived: that changes nothing.
    return {name: value for name, value in changed.items() if value or name not in ("steps", "tokens")}


def _refuse_other_contract(request: TrainRequest, before: RunRecord) -> None:
    if request.contract is None:
        return
    wanted = load_contract(request.contract)
    if wanted.digest != before.contract.digest:
        raise TrainError(
            f"{request.out}: was begun with contract {before.contract.name} ({before.contract.digest[:16]}…), not with "
            f"{wanted.name} ({wanted.digest[:16]}…); resume it without --contract, or begin a new run with --out"
        )
