"""Plan: how much memory a training run needs on each of its devices, before any device is rented."""

from collections.abc import Iterator
from dataclasses import dataclass

from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.flops import flops_per_token

__all__ = ["MemoryPlan", "block_activations", "largest_micro_batch", "memory_plan", "training_days"]

_GIB = 1 << 30
# What a CUDA context, the communication buffers and the allocator's fragments take; measured values vary around it.
_RESERVED = 2 * _GIB
_FRAGMENTS = 1.05


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one of `devices` devices, by purpose, for a micro batch of that many sequences."""

    devices: int
    micro_batch: int
    weights: int
    gradients: int
    optimizer: int
    gathered: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of it, with an allowance for context and fragmentation."""
        state = self.weights + self.gradients + self.optimizer
        return int((state + self.gathered + self.activations + self.logits) * _FRAGMENTS) + _RESERVED

    def rows(self) -> Iterator[tuple[str, str]]:
        """Purpose and GiB, for a table."""
        for name in ("weights", "gradients", "optimizer", "gathered", "activations", "logits", "total"):
            yield name, f"{getattr(self, name) / _GIB:.2f}"


def memory_plan(model: ModelSpec, config: TrainConfig, devices: int, micro_batch: int) -> MemoryPlan:
    """The plan for FSDP2 over that many devices (one device: no sharding, nothing gathered)."""
    width = 2 if config.dtype != "f32" else 4
    tokens = micro_batch * config.sequence
    share = -(-model.parameters // devices)
    return MemoryPlan(
        devices=devices,
        micro_batch=micro_batch,
        weights=4 * share,
        gradients=4 * share,
        optimizer=8 * share,
        gathered=_gathered(model, width, devices),
        activations=_activations(model, tokens, width, recompute=config.recompute, gathered=devices > 1),
        # Logits, their float32 copy, the gradient of each.
        logits=min(tokens, config.loss_chunk or tokens) * model.vocab * (2 * width + 8),
    )


def largest_micro_batch(model: ModelSpec, config: TrainConfig, devices: int, memory: float) -> int:
    """The most sequences, a power of two up to this device's share of the batch, that fit into `memory` GiB; or 0."""
    share = max(1, config.batch // devices)
    fitting = 0
    size = 1
    while size <= share and memory_plan(model, config, devices, size).total <= memory * _GIB:
        fitting, size = size, size * 2
    return fitting


def training_days(model: ModelSpec, config: TrainConfig, devices: int, tokens: int, flops: float) -> float:
    """Days for that many tokens when each device sustains `flops` operations per second."""
    work = flops_per_token(model, config.sequence) * tokens
    # Recomputing repeats the forward pass: a third of forward and backward.
    return work * (4 / 3 if config.recompute else 1) / (flops * devices) / 86400


def block_activations(model: ModelSpec, tokens: int, width: int) -> int:
    """Bytes that one block keeps for its backward pass, for that many tokens at `width` bytes a value; no weights.

    A norm keeps its input in float32 and the normalised value; attention q, k, v, its output before and after the
    heads are joined, and a float32 per head; the network gate, its activation, up and their product. Each linear
    keeps its input: once for all that share it, but a ternary one keeps its own codes.
    """
    norms = (4 + width) * (2 * model.hidden + (model.q_width + model.ffn if model.sub_norms else 0))
    inputs = width * model.hidden * (5 if model.linear == "ternary" else 2)
    attention = width * (3 * model.q_width + 2 * model.kv_width) + 4 * model.heads
    return tokens * (norms + inputs + attention + width * 4 * model.ffn)


def _activations(model: ModelSpec, tokens: int, width: int, *, recompute: bool, gathered: bool) -> int:
    # Weights in another form than they are kept in: bfloat16 copies, or ternary codes.
    copies = 0 if model.linear == "dense" and (gathered or width == 4) else width * _block_parameters(model)
    block = block_activations(model, tokens, width) + copies
    stream = tokens * model.hidden * width
    # The gradients on their way through the widest part of a block.
    passing = tokens * width * (3 * model.ffn + 2 * model.hidden)
    return passing + (model.layers * stream + block if recompute else model.layers * block)


def _block_parameters(model: ModelSpec) -> int:
    embeddings = model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
    return (model.parameters - embeddings - model.hidden) // model.layers


def _gathered(model: ModelSpec, width: int, devices: int) -> int:
    if devices == 1:
        return 0
    embeddings = model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
    block = _block_parameters(model)
    wide = 4 if model.linear == "ternary" else width
    # The root and its gradient stay; two blocks are gathered at a time, one's gradient is reduced in float32.
    return 4 * embeddings * 2 + block * (2 * wide + wide + 4)
