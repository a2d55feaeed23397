"""Recorder: whatever a run measures goes into its metrics file and to its view."""

from pathlib import Path

import torch

from conform.trainer.distributed.world import World
from conform.trainer.planning.flops import flops_per_token, peak_flops
from conform.trainer.run.evaluate import HeldOut
from conform.trainer.run.folder import RunRecord
from conform.trainer.run.judge import Judgement
from conform.trainer.run.live import View
from conform.trainer.run.metrics import Metrics
from conform.trainer.run.step import StepResult

__all__ = ["Recorder"]


class Recorder:
    """Records a run from `step` on. Only the first process writes the file; what it holds after `step` is cut off.

    With `measure_again` so is what was measured at `step`.
    """

    def __init__(
        self,
        run: Path,
        step: int,
        measure_again: bool,
        record: RunRecord,
        dtype: torch.dtype,
        world: World,
        view: View,
    ) -> None:
        config = record.config
        self._view = view
        self._tokens = config.batch * config.sequence
        self._flops = self._tokens * flops_per_token(record.contract.model, config.sequence)
        self._peak = peak_flops(world.device, dtype) * world.size
        self._metrics = None
        if world.main:
            self._metrics = Metrics(run, step, measure_again=measure_again, tensorboard=config.tensorboard)

    def step(self, step: int, result: StepResult, seconds: float) -> None:
        """That many steps are done, the last of them in that many seconds."""
        achieved = self._flops / seconds
        # A peak that was measured on a busy machine can be too low; one from a data sheet is never exceeded.
        self._peak = max(self._peak, achieved)
        values = {
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "lr": result.lr,
            "tokens": step * self._tokens,
            "seconds": seconds,
            "tokens_per_second": self._tokens / seconds,
            "mfu": achieved / self._peak,
        }
        if self._metrics is not None:
            self._metrics.write("step", step, values)
        self._view.step(step, values)

    def held_out(self, step: int, held_out: HeldOut) -> None:
        """The model was evaluated after that many steps."""
        values = held_out.to_json()
        if self._metrics is not None:
            self._metrics.write("held_out", step, values)
        self._view.held_out(step, values)

    def judgement(self, step: int, judgement: Judgement) -> None:
        """One quantisation was judged after that many steps."""
        if self._metrics is not None:
            self._metrics.write("judge", step, judgement.to_json())
        self._view.note(
            f"judged at step {step}: {judgement.quantizer} costs KL {judgement.kl:.4g}, "
            f"loss {judgement.delta_nll:+.4g} nats/token"
        )
        if judgement.alarm:
            self._view.note(f"ALARM: {judgement.alarm}")

    def sync(self) -> None:
        """Return when what was recorded is on the disk."""
        if self._metrics is not None:
            self._metrics.sync()

    def close(self) -> None:
        """Complete the file and the view."""
        self._view.end()
        if self._metrics is not None:
            self._metrics.close()
