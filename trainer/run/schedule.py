"""Schedule: learning rate and weight decay as pure functions of the step, so that neither needs saving."""

import math

from conform.trainer.config import TrainConfig

__all__ = ["learning_rate", "weight_decay"]


def learning_rate(step: int, config: TrainConfig) -> float:
    """The rate of step 0 … steps-1: linear warm-up to `lr`, then half a cosine down to `min_lr * lr`."""
    warmup = math.ceil(config.warmup * config.steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup - 1)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return config.lr * (config.min_lr + (1 - config.min_lr) * cosine)


def weight_decay(step: int, config: TrainConfig) -> float:
    """The decay of the matrices at that step: constant, then none.

    Latent ternary weights that shrink cross their rounding thresholds for no gain in the second half of a run, which
    is why BitNet b1.58 switches decay off there.
    """
    return config.weight_decay if step < config.decay_until * config.steps else 0.0
