"""Evaluate: how well the model predicts held-out text."""

import math
from dataclasses import asdict, dataclass
from itertools import takewhile

import torch

from conform.trainer.config import TrainConfig
from conform.trainer.data.loader import TokenLoader
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama

__all__ = ["HeldOut", "evaluate"]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Mean loss in nats per token, its exponential, bits per byte of text, and the perplexity of token frequencies."""

    loss: float
    perplexity: float
    bits_per_byte: float
    unigram_perplexity: float
    tokens: int

    def to_json(self) -> dict[str, float]:
        """The fields by name."""
        return asdict(self)


@torch.no_grad()
def evaluate(model: Llama, loader: TokenLoader, config: TrainConfig, world: World) -> HeldOut:
    """The loss over the first `eval_sequences` held-out sequences, the same ones at every evaluation.

    Every process runs the same number of forward passes; one whose share is empty counts none of its pass.
    Raises InputError when the data changed since they were read.
    """
    share = config.micro_batch or config.batch // world.size
    total, count = 0.0, 0
    starts = range(0, min(config.eval_sequences, loader.held_out_windows), share * world.size)
    batches = zip(starts, loader.held_out(share * world.size), strict=False)
    for start, batch in takewhile(lambda item: item[0] < config.eval_sequences, batches):
        wanted = batch[: config.eval_sequences - start]
        mine = wanted[world.rank * share : (world.rank + 1) * share]
        tokens = torch.from_numpy(mine if len(mine) else wanted[:1]).to(world.device)
        nats = model(tokens[:, :-1], tokens[:, 1:])
        if len(mine):
            total += float(nats)
            count += mine.shape[0] * (mine.shape[1] - 1)
    loader.check_unchanged()
    total, tokens_seen = world.sums([total, count])
    loss = total / tokens_seen
    manifest = loader.manifest
    return HeldOut(
        loss=loss,
        perplexity=math.exp(min(loss, 700)),
        bits_per_byte=loss / math.log(2) / manifest.bytes_per_token,
        unigram_perplexity=math.exp(manifest.unigram_loss),
        tokens=int(tokens_seen),
    )
