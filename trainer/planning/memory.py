"""Memory: how much of it a training run needs on each of its devices, before any device is rented.

Weights and AdamW's state are there all the time. What comes on top changes during a step: activations pile up in the
forward pass and go in the backward pass, while gradients come. Which phase needs most depends on the model and the
settings, so that each of the three candidates is added up: the loss, and the backward pass of the last and the first
block. `bench/memory.py` holds the sums to a simulated step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.planning.flops import flops_per_token

__all__ = [
    "MemoryPlan",
    "StepPhase",
    "block_activations",
    "largest_micro_batch",
    "memory_plan",
    "training_days",
]

_GIB = 1 << 30
_FLOAT32 = 4  # bytes
# An allowance for a CUDA context, communication buffers and the allocator's fragments; not measured.
_RESERVED = 2 * _GIB
_FRAGMENTS = 1.05


@dataclass(frozen=True, slots=True)
class StepPhase:
    """Bytes that one phase of a step needs on top of weights and optimizer state."""

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
    """Bytes on one of `devices` devices, for micro batches of that many sequences."""

    devices: int
    micro_batch: int
    weights: int
    optimizer: int
    phases: tuple[StepPhase, ...]

    @property
    def peak(self) -> StepPhase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def allocated(self) -> int:
        """What is allocated at the peak."""
        return self.weights + self.optimizer + self.peak.total

    @property
    def total(self) -> int:
        """What is allocated at the peak, with an allowance for context and fragmentation."""
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
    sizes = _sizes(model, config, devices, micro_batch)
    return MemoryPlan(
        devices=devices,
        micro_batch=micro_batch,
        weights=_FLOAT32 * share,
        optimizer=2 * _FLOAT32 * share,  # AdamW's two moments
        phases=(_loss(sizes), _last_block(sizes), _first_block(sizes, model, devices)),
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The parts that the phases are made of, in bytes on one device."""

    first_kept: int  # what the first block keeps from its forward to its backward pass
    all_kept: int  # what all blocks keep
    final_norm: int
    in_backward: int  # what one block's backward pass needs on top of what it kept
    logits: int
    gradients: int  # this device's share of all gradients
    earlier_gradients: int  # of them, what earlier micro batches left
    output_gradient: int  # of the whole output matrix
    block_gradient: int  # of one whole block
    gathered_root: int  # the whole embeddings and final norm
    gathered_block: int  # one whole block


def _sizes(model: ModelSpec, config: TrainConfig, devices: int, micro_batch: int) -> _Sizes:
    width = 2 if config.dtype != "f32" else _FLOAT32
    tokens = micro_batch * config.sequence
    kept = _kept(model, config, tokens, width, devices)
    gradients = _FLOAT32 * -(-model.parameters // devices)
    root, block = _gathered(model, width, devices)
    return _Sizes(
        first_kept=kept,
        all_kept=model.layers * kept,
        # Its input in float32, the normalised value, and the weighted one, which the loss keeps.
        final_norm=tokens * model.hidden * (_FLOAT32 + 2 * width),
        in_backward=_in_backward(model, config, tokens, width, devices),
        logits=_logits(model, config, tokens, width),
        gradients=gradients,
        # Without accumulation there is one micro batch, and no earlier one.
        earlier_gradients=gradients if config.batch > devices * micro_batch else 0,
        output_gradient=_FLOAT32 * model.vocab * model.hidden,
        block_gradient=_FLOAT32 * _block_parameters(model),
        gathered_root=root,
        gathered_block=block,
    )


def _loss(sizes: _Sizes) -> StepPhase:
    """All blocks have run forward, and the last one is still gathered."""
    return StepPhase(
        "in the loss",
        gradients=sizes.earlier_gradients,
        gathered=sizes.gathered_root + sizes.gathered_block,
        activations=sizes.all_kept + sizes.final_norm,
        logits=sizes.logits,
    )


def _last_block(sizes: _Sizes) -> StepPhase:
    """No block has freed its activations yet, and the block before this one is gathered already.

    The gradient of the output matrix stays whole as long as the gathered root does.
    """
    return StepPhase(
        "in the last block",
        gradients=sizes.earlier_gradients,
        gathered=sizes.gathered_root + sizes.output_gradient + 2 * sizes.gathered_block,
        activations=sizes.all_kept + sizes.in_backward,
    )


def _first_block(sizes: _Sizes, model: ModelSpec, devices: int) -> StepPhase:
    """All other blocks have freed their activations, and their gradients are there.

    Two gradients are missing, unless earlier micro batches left them: the block's own, which come as its activations
    go, and the embedding's, which comes last; a tied embedding has the one of its use as output already. Under FSDP2
    the output matrix's gradient is still whole, and so are the second block's, on their way to the other devices.
    """
    missing = sizes.block_gradient + (0 if model.tied_embeddings else sizes.output_gradient)
    reducing = sizes.output_gradient + sizes.block_gradient if devices > 1 else 0
    return StepPhase(
        "in the first block",
        gradients=sizes.earlier_gradients or sizes.gradients - missing // devices,
        gathered=sizes.gathered_root + 2 * sizes.gathered_block + reducing,
        activations=sizes.first_kept + sizes.in_backward,
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

    A norm keeps its input in float32 and the normalised value. Attention keeps q, k, v, its output before and after
    the heads are joined, and a float32 per head. The feed-forward network keeps gate, activation, up and the product.
    Each linear layer keeps its input: once for all layers that share it, but a ternary layer keeps its own codes.
    """
    norms = (_FLOAT32 + width) * (2 * model.hidden + (model.q_width + model.ffn if model.sub_norms else 0))
    inputs = width * model.hidden * (5 if model.linear == "ternary" else 2)
    attention = width * (3 * model.q_width + 2 * model.kv_width) + _FLOAT32 * model.heads
    return tokens * (norms + inputs + attention + width * 4 * model.ffn)


def _kept(model: ModelSpec, config: TrainConfig, tokens: int, width: int, devices: int) -> int:
    """What one block keeps: its input alone when it is recomputed."""
    return _stream(model, tokens, width) if config.recompute else _computed(model, tokens, width, devices)


def _stream(model: ModelSpec, tokens: int, width: int) -> int:
    """The residual stream: what enters a block, and what leaves it."""
    return tokens * model.hidden * width


def _computed(model: ModelSpec, tokens: int, width: int, devices: int) -> int:
    """What one block leaves when it has run forward: activations, and weights in another form than they lie in."""
    # A ternary block has its codes; a dense one has bfloat16 copies, unless FSDP2 gathered it in bfloat16.
    cast = model.linear == "ternary" or (width != _FLOAT32 and devices == 1)
    return block_activations(model, tokens, width) + (width * _block_parameters(model) if cast else 0)


def _in_backward(model: ModelSpec, config: TrainConfig, tokens: int, width: int, devices: int) -> int:
    """What one block's backward pass needs on top of what it kept.

    Gradients pass through the widest part, the feed-forward network: those of gate, up and product, or with sub-norms
    the norm's three in float32 and one more. Two more are of the residual stream, at the entrance and the exit. A block
    that is recomputed has its forward pass again.
    """
    widest = model.ffn * (3 * _FLOAT32 + width if model.sub_norms else 3 * width)
    again = _computed(model, tokens, width, devices) if config.recompute else 0
    return tokens * widest + 2 * _stream(model, tokens, width) + again


def _logits(model: ModelSpec, config: TrainConfig, tokens: int, width: int) -> int:
    """What the loss needs: the logits of a chunk, and the gradients that it computes along with them."""
    chunk = min(tokens, config.loss_chunk or tokens)
    output = model.vocab * model.hidden
    logits_and_log_softmax = 2 * _FLOAT32 * chunk * model.vocab
    cast_output = width * output
    gradients = _FLOAT32 * output + _stream(model, tokens, width)  # of the output matrix, and of its input
    return logits_and_log_softmax + cast_output + gradients


def _block_parameters(model: ModelSpec) -> int:
    embeddings = model.vocab * model.hidden * (1 if model.tied_embeddings else 2)
    return (model.parameters - embeddings - model.hidden) // model.layers


def _gathered(model: ModelSpec, width: int, devices: int) -> tuple[int, int]:
    """What FSDP2 gathers: the root, float32, which stays until the step's end, and one block."""
    if devices == 1:
        return 0, 0
    block = _block_parameters(model)
    root = model.parameters - model.layers * block
    return _FLOAT32 * root, block * (_FLOAT32 if model.linear == "ternary" else width)
