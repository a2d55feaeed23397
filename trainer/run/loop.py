"""Run: the training loop, from a record and a world to a finished or resumable run."""

import dataclasses
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from conform.core.checkpoint.sidecar import read_sidecar
from conform.trainer.checkpoints.restore import restore
from conform.trainer.checkpoints.saver import Saver
from conform.trainer.checkpoints.snapshot import take_snapshot
from conform.trainer.checkpoints.state import Environment, TrainState, seed_random
from conform.trainer.checkpoints.store import CheckpointStore, Found
from conform.trainer.data.loader import TokenLoader, Verify
from conform.trainer.distributed.fsdp import build_model
from conform.trainer.distributed.world import World
from conform.trainer.errors import TrainError
from conform.trainer.planning.flops import flops_per_token, peak_flops
from conform.trainer.run.evaluate import HeldOut, evaluate
from conform.trainer.run.folder import RunFolder, RunRecord, code_version
from conform.trainer.run.judge import Judge
from conform.trainer.run.live import View
from conform.trainer.run.metrics import Metrics, measured, read_metrics
from conform.trainer.run.optimizer import build_optimizer, clip_gradients, set_schedule
from conform.trainer.run.signals import StopRequest

__all__ = ["Outcome", "train"]


_JUDGED_SEQUENCES = 8
_ECHO = 2.0  # seconds in which torchrun passes on a signal that its processes had already


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: at which step, with which newest checkpoint, and by which signal (0: it is complete)."""

    step: int
    checkpoint: Path
    held_out: HeldOut | None
    signal: int


def train(record: RunRecord, folder: RunFolder, world: World, view: View, found: Found) -> Outcome:
    """Train from the found checkpoint, or from the start, to the last step or the first signal.

    The same record, world size and machine give the same losses, gradient norms and weights bit for bit, however often
    the run was interrupted. Raises TrainError when it cannot go on; the checkpoints then are what was saved before.
    """
    with TokenLoader(
        record.data,
        record.config.sequence,
        record.config.batch,
        record.config.seed,
        world.rank,
        world.size,
        _verify(record, world),
    ) as loader:
        run = _Run(record, folder, world, view, loader, found)
        try:
            return run.to_the_end()
        finally:
            run.close()


class _Run:
    def __init__(
        self, record: RunRecord, folder: RunFolder, world: World, view: View, loader: TokenLoader, found: Found
    ) -> None:
        self.record, self.config, self.folder = record, record.config, folder
        self.world, self.view, self.loader = world, view, loader
        self.model = build_model(record.contract.model, self.config, world)
        self.optimizer = build_optimizer(self.model, self.config)
        self.store = CheckpointStore(folder.path)
        self.saver = Saver(self.store, record.contract, self.config, world)
        self.environment = Environment.here(world.size, world.device, str(self.model.compute_dtype))
        self.step = 0
        self.saved = -1
        seed_random(self.config.seed, world.rank)
        self.held_out: HeldOut | None = None
        if found.path is not None and found.state is not None:
            self._resume(found.path, found.state)
        self.owes = bool(world.agree("owes" if world.main and self._lacks_measurements() else ""))
        self.metrics = self._metrics() if world.main else None
        earlier = read_metrics(folder.path) if self.step else ()
        self.judge = Judge(self.config.judge, record.contract.model, earlier) if self.config.judge else None
        self.flops = flops_per_token(record.contract.model, self.config.sequence)
        self.peak = peak_flops(world.device, self.model.compute_dtype) * world.size
        self.code = code_version()

    def to_the_end(self) -> Outcome:
        """Every step that is left."""
        spec = self.record.contract
        self.view.begin(
            f"{spec.name}: {spec.model.parameters:,} parameters, {self.config.dtype} on {self.world.device}, "
            f"{self.world.size} process{'es' if self.world.size > 1 else ''}",
            self.step,
            self.config.steps,
        )
        with StopRequest(_ECHO if self.world.size > 1 else 0.0) as request:
            if self.owes:
                self._measure()
            while self.step < self.config.steps:
                stop = self._one_step(request)
                last = self.step == self.config.steps
                # Saved before it is evaluated: an evaluation that fails must not cost the training before it.
                if last or stop or self.step % self.config.save_every == 0:
                    self._save()
                if stop and not last:
                    self.saver.wait()
                    return Outcome(self.step, self.store.path(self.step), self.held_out, stop)
                self._measure()
        self.saver.wait()
        return self._complete()

    def close(self) -> None:
        """Let go of files and threads."""
        self.view.end()
        self.saver.close()
        if self.metrics is not None:
            self.metrics.close()

    def _resume(self, path: Path, state: TrainState) -> None:
        restore(path, state, self.model, self.optimizer, self.world)
        self.step = self.saved = state.step
        self.view.note(f"resumed from {path}")
        for difference in self.environment.differences(state.environment):
            self.view.note(f"not bitwise the run that was interrupted: {difference}")

    def _is_due(self, every: int) -> bool:
        return self.step == self.config.steps or self.step % every == 0

    def _lacks_measurements(self) -> bool:
        """Whether the run was stopped after it had saved this step and before it had measured it."""
        if not self.step:
            return False
        found = measured(self.folder.path, self.step)
        sidecar = read_sidecar(self.store.path(self.step))
        if sidecar is None or sidecar.held_out is None:
            found.discard("held_out")
        wanted = {"held_out"} if self._is_due(self.config.eval_every) else set()
        if self.config.judge and self._is_due(self.config.judge_every):
            wanted |= {name.strip() for name in self.config.judge.split(",")}
        return not wanted <= found

    def _metrics(self) -> Metrics:
        return Metrics(self.folder.path, self.step, measure_again=self.owes, tensorboard=self.config.tensorboard)

    def _measure(self) -> None:
        if self._is_due(self.config.eval_every):
            self._evaluate()
        if self.judge is not None and self._is_due(self.config.judge_every):
            self._judge(self.judge)

    def _one_step(self, request: StopRequest) -> int:
        start = time.perf_counter()
        rate = set_schedule(self.optimizer, self.step, self.config)
        nats = self._backward(self.loader.batch(self.step))
        total, stop_total, stop = self._agree(nats, request)
        loss = total / (self.config.batch * self.config.sequence)
        norm = clip_gradients(self.model, self.config.clip)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainError(self._diverged(loss, norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self._record(loss, norm, rate, time.perf_counter() - start)
        return stop if stop_total else 0

    def _backward(self, batch: object) -> float:
        # batch: this process's (sequences, length + 1) ids; gradients are the mean over all tokens of the global batch.
        tokens = torch.as_tensor(batch).to(self.world.device, non_blocking=True)
        nats = torch.zeros((), dtype=torch.float64, device=self.world.device)
        share = tokens.shape[0] * self.config.sequence
        for micro in torch.split(tokens, self.config.micro_batch or tokens.shape[0]):
            total = self.model(micro[:, :-1], micro[:, 1:])
            (total / share).backward()
            nats += total.detach()
        return float(nats)

    def _agree(self, nats: float, request: StopRequest) -> tuple[float, int, int]:
        # The signal reaches one process at one moment; all must stop at the same step.
        signal = request.signal
        total, asked, number = self.world.sums([nats, float(signal > 0), float(signal)])
        return total, int(asked), int(number / asked) if asked else 0

    def _record(self, loss: float, norm: float, rate: float, seconds: float) -> None:
        tokens = self.config.batch * self.config.sequence
        achieved = tokens * self.flops / seconds
        # A peak measured while the machine was busy is no peak; one from a data sheet is never exceeded.
        self.peak = max(self.peak, achieved)
        values = {
            "loss": loss,
            "grad_norm": norm,
            "lr": rate,
            "tokens": self.step * tokens,
            "seconds": seconds,
            "tokens_per_second": tokens / seconds,
            "mfu": achieved / self.peak,
        }
        if self.metrics is not None:
            self.metrics.write("step", self.step, values)
        self.view.step(self.step, values)

    def _save(self) -> None:
        record = self.record
        if self.metrics is not None:
            self.metrics.sync()
        state = TrainState(
            step=self.step,
            tokens=self.step * self.config.batch * self.config.sequence,
            contract_digest=record.contract.digest,
            tokenizer_digest=record.tokenizer_digest,
            data_digest=record.data_digest,
            config=dataclasses.asdict(self.config),
            environment=self.environment,
        )
        largest = int(self.config.shard_gb * 1e9)
        snapshot = take_snapshot(
            record.contract,
            self.model,
            self.optimizer,
            state,
            record.tokenizer,
            self.world,
            largest,
            lasting=self.config.async_save,
        )
        self.saver.save(snapshot, self.code)
        self.saved = self.step
        self.view.note(f"checkpoint {self.store.path(self.step)}{' (being written)' * self.config.async_save}")

    def _evaluate(self) -> None:
        self.held_out = evaluate(self.model, self.loader, self.config, self.world)
        values = self.held_out.to_json()
        if self.metrics is not None:
            self.metrics.write("held_out", self.step, values)
        if self.saved == self.step:
            self.saver.wait()
            if self.world.main:
                self.store.annotate(self.step, values)
        self.view.held_out(self.step, values)

    def _judge(self, judge: Judge) -> None:
        tokens = torch.from_numpy(next(iter(self.loader.held_out(_JUDGED_SEQUENCES))))
        for judgement in judge.judge(self.model, tokens, self.step, self.world):
            values = judgement.to_json()
            if self.metrics is not None:
                self.metrics.write("judge", self.step, values)
            self.view.note(
                f"judged at step {self.step}: {judgement.quantizer} costs KL {judgement.kl:.4g}, "
                f"loss {judgement.delta_nll:+.4g} nats/token"
            )
            if judgement.alarm:
                self.view.note(f"ALARM: {judgement.alarm}")

    def _complete(self) -> Outcome:
        checkpoint = self.store.path(self.step)
        if self.world.main:
            self.folder.finish({"step": self.step, "checkpoint": checkpoint.name})
        return Outcome(self.step, checkpoint, self.held_out, 0)

    def _diverged(self, loss: float, norm: float) -> str:
        steps = self.store.steps()
        last = f"the last good checkpoint is {self.store.path(steps[-1])}" if steps else "there is no checkpoint yet"
        return (
            f"step {self.step + 1}: the loss is {loss} and the gradient norm {norm}; training stopped, {last}; "
            "a lower --lr, a longer --warmup or --dtype f32 may help"
        )


def _verify(record: RunRecord, world: World) -> Verify:
    # The processes of a host read the same files: one of them hashes all.
    return record.config.verify if record.config.verify != "full" or world.first_of_host else "off"
