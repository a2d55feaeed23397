"""Loop: a run's steps, one after the other, and what is saved, evaluated and judged between them.

    step ─> record ─> save ─> stop, when a signal came ─> evaluate ─> judge ─> next step

Saving comes before evaluating: an evaluation that fails must not cost the training before it. The last step is always
saved and evaluated. A run that a signal stops has saved the step that it stops at. What was to be measured at a step
that a run was stopped or killed at is made up when it goes on.
"""

import dataclasses
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import AdamW

from conform.core.checkpoint.sidecar import read_sidecar
from conform.core.codec import Codec
from conform.trainer.checkpoints.restore import restore
from conform.trainer.checkpoints.saver import Saver
from conform.trainer.checkpoints.snapshot import take_snapshot
from conform.trainer.checkpoints.state import Environment, TrainState, seed_random
from conform.trainer.checkpoints.store import CheckpointStore, Found
from conform.trainer.config import TrainConfig
from conform.trainer.data.loader import TokenLoader, Verify
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World
from conform.trainer.errors import TrainError
from conform.trainer.model.model import Llama
from conform.trainer.run.evaluate import HeldOut, evaluate
from conform.trainer.run.folder import RunFolder, RunRecord, code_version
from conform.trainer.run.judge import Judge
from conform.trainer.run.live import View
from conform.trainer.run.metrics import measured, read_metrics
from conform.trainer.run.optimizer import build_optimizer
from conform.trainer.run.recorder import Recorder
from conform.trainer.run.signals import StopRequest
from conform.trainer.run.step import StepResult, train_step

__all__ = ["Outcome", "Routines", "Start", "train"]

_JUDGED_SEQUENCES = 8
_ECHO = 2.0  # seconds within which torchrun passes on a signal that its processes had already


@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins or goes on with: its resolved record, the newest checkpoint, and what will judge it.

    The first process alone has the quantizers, for it alone judges.
    """

    record: RunRecord
    found: Found
    quantizers: tuple[Codec, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: at which step, with which newest checkpoint, and by which signal (0: it is complete)."""

    step: int
    checkpoint: Path
    held_out: HeldOut | None
    signal: int


@dataclass(frozen=True, slots=True)
class Routines:
    """The two computations of a run; another can stand in for either."""

    step: Callable[[Llama, AdamW, Tensor, int, TrainConfig, World], StepResult] = train_step
    evaluate: Callable[[Llama, TokenLoader, TrainConfig, World], HeldOut] = evaluate


def train(start: Start, folder: RunFolder, world: World, view: View, routines: Routines) -> Outcome:
    """Train from the checkpoint that was found, or from the start, to the last step or the first signal.

    The same record, world size and machine give the same losses, gradient norms and weights bit for bit, however often
    the run was interrupted. Raises TrainError when it cannot go on; the checkpoints then are those saved before.
    """
    config = start.record.config
    data = TokenLoader(
        start.record.data,
        config.sequence,
        config.batch,
        config.seed,
        world.rank,
        world.size,
        _verify(config, world),
    )
    with data as loader, closing(_Run(start, folder, world, view, loader, routines)) as run:
        return run.to_the_end()


def _verify(config: TrainConfig, world: World) -> Verify:
    # The processes of a host read the same files: one of them hashes all.
    return config.verify if config.verify != "full" or world.first_of_host else "off"


class _Run:
    """One process's part in a run. `step` is the number of updates that the model and the optimizer have had."""

    def __init__(
        self, start: Start, folder: RunFolder, world: World, view: View, loader: TokenLoader, routines: Routines
    ) -> None:
        self.record, self.config, self.folder = start.record, start.record.config, folder
        self.world, self.view, self.loader, self.routines = world, view, loader, routines
        spec = self.record.contract.model
        self.model = build_model(spec, self.config, world)
        self.optimizer = build_optimizer(self.model, self.config)
        self.environment = Environment.here(world.size, world.device, str(self.model.compute_dtype))
        seed_random(self.config.seed, world.rank)
        self.step = self.saved_step = self._restored(start.found)
        self.held_out: HeldOut | None = None
        self.store = CheckpointStore(folder.path)
        self.saver = Saver(self.store, self.record.contract, self.config, world)
        self.owes = bool(world.agree("owes" if world.main and self._lacks_measurements() else ""))
        self.recorder = Recorder(folder.path, self.step, self.owes, self.record, self.model.compute_dtype, world, view)
        earlier = read_metrics(folder.path) if self.step else ()
        self.judge = Judge(start.quantizers, spec, earlier) if self.config.judge else None
        self.code = code_version()

    def to_the_end(self) -> Outcome:
        """Every step that is left, and what falls due after each."""
        self._announce()
        with StopRequest(_ECHO if self.world.size > 1 else 0.0) as request:
            if self.owes:
                self._measure()
            while self.step < self.config.steps:
                self._take_step()
                signal = request.agreed(self.world)
                if signal or self._due(self.config.save_every):
                    self._save()
                if signal and self.step < self.config.steps:
                    return self._ended(signal)
                self._measure()
        return self._ended(0)

    def close(self) -> None:
        """End the saving thread, and complete the metrics."""
        self.saver.close()
        self.recorder.close()

    def _restored(self, found: Found) -> int:
        """Model and optimizer as the checkpoint has them; the step that it is of, 0 without one."""
        if found.path is None or found.state is None:
            return 0
        restore(found.path, found.state, self.model, self.optimizer, self.world)
        self.view.note(f"resumed from {found.path}")
        for difference in self.environment.differences(found.state.environment):
            self.view.note(f"not bitwise the run that was interrupted: {difference}")
        return found.state.step

    def _announce(self) -> None:
        contract = self.record.contract
        self.view.begin(
            f"{contract.name}: {contract.model.parameters:,} parameters, {self.config.dtype} on {self.world.device}, "
            f"{self.world.size} process{'es' if self.world.size > 1 else ''}",
            self.step,
            self.config.steps,
        )

    def _due(self, every: int) -> bool:
        return self.step % every == 0 or self.step == self.config.steps

    def _lacks_measurements(self) -> bool:
        """Whether the run was stopped after it had saved this step and before it had measured it."""
        if not self.step:
            return False
        found = measured(self.folder.path, self.step)
        sidecar = read_sidecar(self.store.path(self.step))
        if sidecar is None or sidecar.held_out is None:
            found.discard("held_out")
        wanted = {"held_out"} if self._due(self.config.eval_every) else set()
        if self.config.judge and self._due(self.config.judge_every):
            wanted |= {name.strip() for name in self.config.judge.split(",")}
        return not wanted <= found

    def _measure(self) -> None:
        if self._due(self.config.eval_every):
            self._evaluate()
        if self.judge is not None and self._due(self.config.judge_every):
            self._judge(self.judge)

    def _take_step(self) -> None:
        began = time.perf_counter()
        tokens = torch.from_numpy(self.loader.batch(self.step)).to(self.world.device, non_blocking=True)
        result = self.routines.step(self.model, self.optimizer, tokens, self.step, self.config, self.world)
        if not result.finite:
            raise TrainError(self._diverged(result))
        self.step += 1
        self.recorder.step(self.step, result, time.perf_counter() - began)

    def _save(self) -> None:
        record, config = self.record, self.config
        self.recorder.sync()
        state = TrainState(
            step=self.step,
            tokens=self.step * config.batch * config.sequence,
            contract_digest=record.contract.digest,
            tokenizer_digest=record.tokenizer_digest,
            data_digest=record.data_digest,
            config=dataclasses.asdict(config),
            environment=self.environment,
        )
        snapshot = take_snapshot(
            record.contract,
            self.model,
            self.optimizer,
            state,
            record.tokenizer,
            self.world,
            int(config.shard_gb * 1e9),
            lasting=config.async_save,
        )
        self.saver.save(snapshot, self.code)
        self.saved_step = self.step
        self.view.note(f"checkpoint {self.store.path(self.step)}{' (being written)' * config.async_save}")

    def _evaluate(self) -> None:
        self.held_out = self.routines.evaluate(self.model, self.loader, self.config, self.world)
        self.recorder.held_out(self.step, self.held_out)
        if self.saved_step == self.step:
            self.saver.wait()
            if self.world.main:
                self.store.annotate(self.step, self.held_out.to_json())

    def _judge(self, judge: Judge) -> None:
        tokens = torch.from_numpy(next(iter(self.loader.held_out(_JUDGED_SEQUENCES))))
        for judgement in judge.judge(self.model, tokens, self.step, self.world):
            self.recorder.judgement(self.step, judgement)

    def _ended(self, signal: int) -> Outcome:
        self.saver.wait()
        checkpoint = self.store.path(self.step)
        if not signal and self.world.main:
            self.folder.finish({"step": self.step, "checkpoint": checkpoint.name})
        return Outcome(self.step, checkpoint, self.held_out, signal)

    def _diverged(self, result: StepResult) -> str:
        steps = self.store.steps()
        last = f"the last good checkpoint is {self.store.path(steps[-1])}" if steps else "there is no checkpoint yet"
        return (
            f"step {self.step + 1}: the loss is {result.loss} and the gradient norm {result.grad_norm}; training "
            f"stopped, {last}; a lower --lr, a longer --warmup or --dtype f32 may help"
        )
