"""Launch: from what was typed to a run: begin one, go on with one, or find that it is complete."""

import dataclasses
from typing import Any

from conform.contract.errors import ConformError
from conform.contract.load import load_contract
from conform.trainer.checkpoints.state import read_state
from conform.trainer.checkpoints.store import CheckpointStore, Found
from conform.trainer.config import MAY_CHANGE_ON_RESUME, TrainConfig, read_config, resolved, with_values
from conform.trainer.data.manifest import manifest_digest
from conform.trainer.distributed.world import World, has_bfloat16, restarts
from conform.trainer.errors import TrainError
from conform.trainer.run.folder import RunFolder, RunRecord, tokenizer_of
from conform.trainer.run.judge import find_quantizers
from conform.trainer.run.live import View
from conform.trainer.run.loop import Outcome, train
from conform.trainer.run.request import Request, refuse_hopeless, settings

__all__ = ["launch"]


def launch(request: Request, world: World, view: View) -> Outcome | None:
    """Do what was asked; None when the run was complete already.

    Raises ConformError (in every process, with the same sentence) when it cannot be done.
    """
    folder = RunFolder(request.out)
    try:
        record, found = _together(request, folder, world, view)
        if folder.finished() is not None:
            return None
        return train(record, folder, world, view, found)
    finally:
        folder.unlock()


def _together(request: Request, folder: RunFolder, world: World, view: View) -> tuple[RunRecord, Found]:
    """The first process decides and writes; the others learn what it decided, or why it could not."""
    problem, chosen = "", ""
    if world.main:
        try:
            chosen = _prepare(request, folder, world, view)
        except ConformError as error:
            problem = str(error)
    problem, chosen = world.agree(problem), world.agree(chosen)
    if problem:
        raise TrainError(problem)
    record = folder.read(request.data)
    if not chosen:
        return record, Found(None, None, ())
    path = CheckpointStore(folder.path).folder / chosen
    return record, Found(path, read_state(path / "resume/state.json"), ())


def _prepare(request: Request, folder: RunFolder, world: World, view: View) -> str:
    """Create or reopen the run; returns the name of the checkpoint to go on from, or "" for the start."""
    # torchrun restarts processes with the arguments of the first start.
    if request.resume or (restarts() and folder.exists()):
        return _reopen(request, folder, world, view)
    refuse_hopeless(request)
    assert request.contract is not None  # or it would have been refused
    assert request.data is not None
    contract = load_contract(request.contract)
    tokenizer = tokenizer_of(request.data, contract)
    config = _resolved(settings(request), contract.model.linear == "ternary", contract.model.context, world)
    find_quantizers(config.judge)
    _refuse_uncompilable(config, world)
    folder.create(RunRecord(contract, config, request.data, tokenizer, manifest_digest(request.data)))
    return ""


def _reopen(request: Request, folder: RunFolder, world: World, view: View) -> str:
    record = folder.read(request.data)
    # The processes that torchrun replaces may need a moment to die.
    folder.lock(patience=30.0 if restarts() else 0.0)
    _refuse_other_contract(request, record, folder)
    config = _changed(request, record, world) if not restarts() else record.config
    done = folder.finished()
    if done is not None and config.steps <= record.config.steps:
        view.note(f"{folder.path} is complete: step {record.config.steps}; more --steps would make it longer")
        return ""
    store = CheckpointStore(folder.path)
    store.sweep()
    found = store.newest()
    for torn in found.torn:
        view.note(f"passed over {torn.path}: {torn.reason}")
    _refuse_all_torn(found, store)
    _refuse_mismatch(found, record)
    find_quantizers(config.judge)
    _refuse_uncompilable(config, world)
    folder.reopen()
    folder.update(dataclasses.replace(record, config=config))
    return found.path.name if found.path else ""


def _changed(request: Request, record: RunRecord, world: World) -> TrainConfig:
    wanted = dict(request.values)
    if request.config:
        wanted = {**_differences(read_config(request.config, record.config), record.config), **wanted}
    same = {key for key, value in wanted.items() if getattr(record.config, key) == value}
    if refused := sorted(set(wanted) - same - MAY_CHANGE_ON_RESUME):
        raise TrainError(
            f"--{refused[0].replace('_', '-')}: was {getattr(record.config, refused[0])} when the run began, and a run "
            "that is resumed must go on as it began; begin a new one with --out"
        )
    config = with_values(record.config, wanted, "command line")
    model = record.contract.model
    return _resolved(config, model.linear == "ternary", model.context, world)


def _refuse_uncompilable(config: TrainConfig, world: World) -> None:
    # Else the first step would end with a traceback, and leave a run behind that cannot go on.
    if not config.compile or world.device.type != "cpu":
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise TrainError(
            "--compile needs a C++ compiler on a CPU, and torch finds none: install g++, name another one in CXX, or "
            "train with --no-compile"
        ) from error


def _differences(new: TrainConfig, old: TrainConfig) -> dict[str, Any]:
    pairs = ((item.name, getattr(new, item.name)) for item in dataclasses.fields(TrainConfig))
    changed = {name: value for name, value in pairs if value != getattr(old, name)}
    # Whoever gives the length in steps, or in tokens, leaves the other at 0, to be derived: that changes nothing.
    return {name: value for name, value in changed.items() if value or name not in ("steps", "tokens")}


def _resolved(config: TrainConfig, ternary: bool, context: int, world: World) -> TrainConfig:
    return resolved(
        config,
        ternary=ternary,
        context=context,
        world=world.size,
        device=world.device.type,
        bfloat16=has_bfloat16(world.device),
    )


def _refuse_other_contract(request: Request, record: RunRecord, folder: RunFolder) -> None:
    if request.contract is None:
        return
    wanted = load_contract(request.contract)
    if wanted.digest != record.contract.digest:
        raise TrainError(
            f"{folder.path}: was begun with contract {record.contract.name} ({record.contract.digest[:16]}…), not with "
            f"{wanted.name} ({wanted.digest[:16]}…); resume it without --contract, or begin a new run with --out"
        )


def _refuse_all_torn(found: Found, store: CheckpointStore) -> None:
    # Days of training may be lost by beginning again: only the user can say that they are.
    if found.path is None and found.torn:
        raise TrainError(
            f"{store.folder}: holds no checkpoint that can be resumed from ({len(found.torn)} passed over, the newest: "
            f"{found.torn[0].reason}); restore one, or remove that folder to begin again at step 0"
        )


def _refuse_mismatch(found: Found, record: RunRecord) -> None:
    state = found.state
    if state is None:
        return
    pairs = (
        ("contract", state.contract_digest, record.contract.digest),
        ("tokenizer", state.tokenizer_digest, record.tokenizer_digest),
        ("data", state.data_digest, record.data_digest),
    )
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise TrainError(
                f"{found.path}: its {what} has digest {theirs[:16]}…, the run's has {ours[:16]}…; "
                "this checkpoint belongs to another run"
            )
