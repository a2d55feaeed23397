"""Plan: how much memory a training run needs on each of its devices, before any device is rented."""

from collections.abc import Iterator
from dataclasses import dataclass

from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.planning.flops import flops_per_token

__all__ = ["MemoryPlan", "block_activations", "largest_micro_batch", "memory_plan", "training_days"]

_GIB = 1 << 30
# An allowance for a CUDA context, communication buffers and the allocator's fragments; not measured.
_RESERVED = 2 * _GIB
_FRAGMENTS = 1.05


@dataclass(frozen=True, slots=True)
class Moment:
    """Bytes that come on top of weights and moments at one moment of a step."""

    name: str
    gradients: int
    gathered: int
    activations: int
    logits: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.gradients + self.gathered + self.activations + self.logits


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Bytes on one of `devices` devices for a micro batch of that many sequences, at the moments that need most."""

    devices: int
    micro_batch: int
    weights: int
    optimizer: int
    moments: tuple[Moment, ...]

    @property
    def peak(self) -> Moment:
        """The moment that decides: as activations go, gradients come."""
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def allocated(self) -> int:
        """What is allocated at the peak."""
        return self.weights + self.optimizer + self.peak.total

    @property
    def total(self) -> int:
        """What is allocated, with an allowance for context and fragmentation."""
        return int(self.allocated * _FRAGMENTS) + _RESERVED

    def rows(self) -> Iterator[tuple[str, str]]:
        """Purpose and GiB at the peak, for a table."""
        peak = self.peak
        sizes = {"weights": self.weights, "optimizer": self.optimizer, "gradients": peak.gradients}
        sizes |= {"gathered": peak.gathered, "activations": peak.activations, "logits": peak.logits}
        for name, size in (sizes | {f"total, {peak.name}": self.total}).items():
            yield name, f"{size / _GIB:.2f}"


def memory_plan(model: ModelSpec, config: TrainConfig, devices: int, micro_batch: int) -> MemoryPlan:
    """The plan for FSDP2 over that many devices (one device: no sharding, nothing gathered)."""
    share = -(-model.parameters // devices)
    return MemoryPlan(
        devices=devices,
        micro_batch=micro_batch,
        weights=4 * share,
        optimizer=8 * share,
        moments=tuple(_moments(model, config, devices, micro_batch)),
    )


def _moments(model: ModelSpec, config: TrainConfig, devices: int, micro_batch: int) -> Iterator[Moment]:
    width = 2 if config.dtype != "f32" else 4
    tokens = micro_batch * config.sequence
    stream = tokens * model.hidden * width
    block = _block(model, tokens, width, gathered=devices > 1)
    kept = model.layers * (stream if config.recompute else block)
    # The gradients on their way through the widest part of a block: a norm's are float32.
    widest = model.ffn * (12 + width if model.sub_norms else 3 * width)
    passing = tokens * (widest + 2 * model.hidden * width) + (block if config.recompute else 0)
    output = 4 * model.vocab * model.hidden
    all_gradients = 4 * -(-model.parameters // devices)
    # Of earlier micro batches, which the later ones add to.
    earlier = all_gradients if config.batch > devices * micro_batch else 0
    root, one = _gathered(model, width, devices)
    # Logits in float32 and their logarithms, and the gradients that are taken along with them.
    chunk = min(tokens, config.loss_chunk or tokens)
    logits = chunk * model.vocab * 8 + output + output // 4 * width + stream
    norm = tokens * model.hidden * (4 + 2 * width)
    yield Moment("in the loss", earlier, root + one, kept + norm, logits)
    yield Moment("in the last block", earlier, root + output + 2 * one, kept + passing)
    # Its own gradients come as its activations go, the embedding's after it; a tied one's from the output is there.
    missing = 4 * _block_parameters(model) + (0 if model.tied_embeddings else output)
    before = all_gradients - (0 if earlier else missing // devices)
    # Of the block before it, gradients are on their way to the other devices in float32.
    reduced = output + 4 * _block_parameters(model) if devices > 1 else 0
    yield Moment("in the first block", before, root + 2 * one + reduced, kept // model.layers + passing)


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


def _block(model: ModelSpec, tokens: int, width: int, *, gathered: bool) -> int:
    # Weights in another form than they are kept in: bfloat16 copies, or ternary codes.
    copies = 0 if model.linear == "dense" and (gathered or width == 4) else width * _block_parameters(model)
    return block_activations(model, tokens, width) + copies


def _block_parameters(model: ModelSpec) -> int:
    embeddings = model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
    return (model.parameters - embeddings - model.hidden) // model.layers


def _gathered(model: ModelSpec, width: int, devices: int) -> tuple[int, int]:
    # Bytes of the embeddings, which stay gathered, and of one block.
    if devices == 1:
        return 0, 0
    block = _block_parameters(model)
    return 4 * (model.parameters - model.layers * block), block * (4 if model.linear == "ternary" else width)
