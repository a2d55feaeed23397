"""Saver: takes a run's snapshots to disk, at once or in a thread while training goes on."""

import shutil
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from conform.contract.spec import Contract
from conform.trainer.checkpoints.snapshot import Snapshot, write_files
from conform.trainer.checkpoints.store import CheckpointStore
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.world import World
from conform.trainer.errors import ConformError, TrainError

__all__ = ["Saver"]


class Saver:
    """Writes one checkpoint at a time; every process calls every method at the same step."""

    def __init__(self, store: CheckpointStore, contract: Contract, config: TrainConfig, world: World) -> None:
        self._store, self._contract, self._config, self._world = store, contract, config, world
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="saver") if config.async_save else None
        self._pending: Future[None] | None = None

    def save(self, snapshot: Snapshot, trainer: Mapping[str, Any]) -> None:
        """Write the snapshot; with async_save it returns at once, after the save before it is complete.

        Raises TrainError in every process when any could not write, with the run's last checkpoint left as it was.
        """
        self.wait()
        if self._thread is None:
            self._write(snapshot, trainer)
        else:
            self._pending = self._thread.submit(self._write, snapshot, trainer)

    def wait(self) -> None:
        """Return when nothing is being written. Raises TrainError when the save that was under way failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    def _write(self, snapshot: Snapshot, trainer: Mapping[str, Any]) -> None:
        step = snapshot.state.step
        temporary = self._store.temporary(step)
        self._together(step, lambda: write_files(snapshot, temporary))
        self._together(step, lambda: self._commit(snapshot, trainer) if self._world.main else None)

    def _commit(self, snapshot: Snapshot, trainer: Mapping[str, Any]) -> None:
        self._store.commit(snapshot, self._contract, trainer)
        self._store.prune(self._config)

    def _together(self, step: int, work: Any) -> None:
        problem: ConformError | OSError | None = None
        try:
            work()
        except (ConformError, OSError) as error:
            problem = error
        # One that fails must not leave the others waiting.
        if self._world.all_well(problem is None):
            return
        if self._world.main:
            shutil.rmtree(self._store.temporary(step), ignore_errors=True)
        raise TrainError(_sentence(self._store.path(step), problem, self._last())) from problem

    def _last(self) -> Path | None:
        steps = self._store.steps()
        return self._store.path(steps[-1]) if steps else None


def _sentence(path: Path, problem: Exception | None, last: Path | None) -> str:
    what = str(problem) if problem is not None else f"{path}: another process could not write its part"
    after = f"the last good checkpoint is {last}" if last else "there is no checkpoint yet"
    return f"{what}; {after}; make room or choose another place, then go on with --resume"
