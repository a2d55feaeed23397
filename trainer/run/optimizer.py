"""Optimizer: AdamW that decays matrices only, and its state by parameter name."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from conform.trainer.config import TrainConfig
from conform.trainer.run.schedule import learning_rate, weight_decay

__all__ = ["MOMENTS", "build_optimizer", "clip_gradients", "set_schedule", "slots"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps per parameter, each of the parameter's shape."""


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over two groups: matrices, which decay, and vectors, which do not; its state exists at once, as zeros."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "decays": True},
        {"params": [p for p in parameters if p.ndim < 2], "decays": False},
    ]
    optimizer = AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True)
    for parameter in parameters:
        moments = {name: torch.zeros_like(parameter, requires_grad=False) for name in MOMENTS}
        # The fused kernel wants the step beside the parameter.
        optimizer.state[parameter] = {"step": torch.zeros((), device=parameter.device), **moments}
    return optimizer


def set_schedule(optimizer: AdamW, step: int, config: TrainConfig) -> float:
    """Set the learning rate and weight decay of that step (from 0); returns the learning rate."""
    rate = learning_rate(step, config)
    for group in optimizer.param_groups:
        group["lr"] = rate
        group["weight_decay"] = weight_decay(step, config) if group["decays"] else 0.0
    return rate


def clip_gradients(model: nn.Module, largest: float) -> float:
    """Scale the gradients to a global norm of at most `largest` (0: leave them); returns the norm before that."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients, foreach=True)
    norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
    if largest > 0:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), largest, norm, foreach=True)
    return float(norm)


def slots(model: nn.Module, optimizer: AdamW) -> Iterator[tuple[str, Tensor]]:
    """AdamW's moments in the model's order, each with its name: `PARAMETER/exp_avg` or `PARAMETER/exp_avg_sq`."""
    for name, parameter in model.named_parameters():
        for moment in MOMENTS:
            yield f"{name}/{moment}", optimizer.state[parameter][moment]
