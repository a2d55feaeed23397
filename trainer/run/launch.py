"""Launch: from a request to a run: begin one, go on with one, or find that it is complete."""

import dataclasses

from conform.trainer.checkpoints.state import read_state
from conform.trainer.checkpoints.store import CheckpointStore, Found
from conform.trainer.config import TrainConfig, resolved
from conform.trainer.distributed.torchrun import restarts
from conform.trainer.distributed.world import World, has_bfloat16
from conform.trainer.errors import ConformError, TrainError
from conform.trainer.run.folder import RunFolder, RunRecord
from conform.trainer.run.judge import find_quantizers
from conform.trainer.run.live import View
from conform.trainer.run.loop import Outcome, Routines, Start, train
from conform.trainer.run.request import LoadedRequest

__all__ = ["launch"]

_THE_START = Found(None, None, ())


def launch(loaded: LoadedRequest, world: World, view: View, routines: Routines | None = None) -> Outcome | None:
    """Do what was asked; None when the run was complete already.

    Raises ConformError (in every process, with the same sentence) when it cannot be done.
    """
    folder = RunFolder(loaded.out)
    try:
        start = _together(loaded, folder, world, view)
        if folder.finished() is not None:
            return None
        return train(start, folder, world, view, routines or Routines())
    finally:
        folder.unlock()


def _together(loaded: LoadedRequest, folder: RunFolder, world: World, view: View) -> Start:
    """The first process decides and writes; the others learn what it decided, or why it could not."""
    problem, decided = "", None
    if world.main:
        try:
            decided = _decide(loaded, folder, world, view)
        except ConformError as error:
            problem = str(error)
    if problem := world.agree(problem):
        raise TrainError(problem)
    checkpoint = world.agree(decided.found.path.name if decided and decided.found.path else "")
    if decided is not None:
        return decided
    record = folder.read(loaded.record.data)
    if not checkpoint:
        return Start(record, _THE_START, ())
    path = CheckpointStore(folder.path).folder / checkpoint
    return Start(record, Found(path, read_state(path / "resume/state.json"), ()), ())


def _decide(loaded: LoadedRequest, folder: RunFolder, world: World, view: View) -> Start:
    if loaded.before is None:
        return _begin(loaded.record, folder, world)
    return _go_on(loaded.record, loaded.before, folder, world, view)


def _begin(asked: RunRecord, folder: RunFolder, world: World) -> Start:
    record = _resolved(asked, world)
    quantizers = find_quantizers(record.config.judge)
    _refuse_uncompilable(record.config, world)
    folder.create(record)
    return Start(record, _THE_START, quantizers)


def _go_on(asked: RunRecord, before: RunRecord, folder: RunFolder, world: World, view: View) -> Start:
    # The processes that torchrun replaces may need a while to die.
    folder.lock(patience=30.0 if restarts() else 0.0)
    record = asked if restarts() else _resolved(asked, world)
    if folder.finished() is not None and record.config.steps <= before.config.steps:
        view.note(f"{folder.path} is complete: step {before.config.steps}; more --steps would make it longer")
        return Start(before, _THE_START, ())
    found = _newest(CheckpointStore(folder.path), view)
    _refuse_mismatch(found, record)
    quantizers = find_quantizers(record.config.judge)
    _refuse_uncompilable(record.config, world)
    folder.reopen()
    folder.update(record)
    return Start(record, found, quantizers)


def _newest(store: CheckpointStore, view: View) -> Found:
    store.sweep()
    found = store.newest()
    for torn in found.torn:
        view.note(f"passed over {torn.path}: {torn.reason}")
    _refuse_all_torn(found, store)
    return found


def _resolved(record: RunRecord, world: World) -> RunRecord:
    model = record.contract.model
    config = resolved(
        record.config,
        ternary=model.linear == "ternary",
        context=model.context,
        world=world.size,
        device=world.device.type,
        bfloat16=has_bfloat16(world.device),
    )
    return dataclasses.replace(record, config=config)


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
