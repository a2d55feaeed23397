"""Step: one update of the weights, from a batch of tokens to what it measured."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim import AdamW

from conform.trainer.config import TrainConfig
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama
from conform.trainer.run.optimizer import clip_gradients, set_schedule

__all__ = ["StepResult", "train_step"]


@dataclass(frozen=True, slots=True)
class StepResult:
    """The loss in nats per token of the global batch, the gradient norm before clipping, and the learning rate."""

    loss: float
    grad_norm: float
    lr: float

    @property
    def finite(self) -> bool:
        """False when the step diverged."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def train_step(
    model: Llama, optimizer: AdamW, tokens: Tensor, step: int, config: TrainConfig, world: World
) -> StepResult:
    """Update the weights once; every process calls it, with its own rows of the batch of that step (from 0).

    tokens (rows, sequence + 1) ids on the device. A step that diverges leaves the weights as they were.
    """
    lr = set_schedule(optimizer, step, config)
    (nats,) = world.sums([_accumulate_gradients(model, tokens, config)])
    norm = clip_gradients(model, config.clip)
    result = StepResult(nats / (config.batch * config.sequence), norm, lr)
    if result.finite:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return result


def _accumulate_gradients(model: Llama, tokens: Tensor, config: TrainConfig) -> float:
    """The loss of this process's rows in nats; each gradient is the mean over their tokens, which FSDP2 averages."""
    nats = torch.zeros((), dtype=torch.float64, device=tokens.device)
    share = tokens.shape[0] * config.sequence
    for micro in torch.split(tokens, config.micro_batch or tokens.shape[0]):
        total = model(micro[:, :-1], micro[:, 1:])
        (total / share).backward()
        nats += total.detach()
    return float(nats)
