"""FSDP: one model spread over all processes (FSDP2), and whole tensors in and out of it."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama

__all__ = ["assign", "build_model", "compute_dtype", "is_sharded", "shard", "whole"]


def compute_dtype(config: TrainConfig) -> torch.dtype:
    """What the matrix products of a resolved config run in."""
    return torch.bfloat16 if config.dtype == "bf16" else torch.float32


def build_model(spec: ModelSpec, config: TrainConfig, world: World, *, sharded: bool | None = None) -> Llama:
    """The model with the initial weights of its seed, spread over all processes when there are several.

    No process holds more than its share of the model and one whole tensor at a time. `sharded` overrides whether FSDP2
    is used.
    """
    with torch.device("meta"):
        model = Llama(
            spec,
            compute_dtype=compute_dtype(config),
            recompute=config.recompute,
            loss_chunk=config.loss_chunk,
        )
    if config.compile:
        for block in model.model.layers:
            block.compile()
    if world.size > 1 if sharded is None else sharded:
        shard(model, world)
    model.to_empty(device=world.device)
    for name, parameter in model.named_parameters():
        assign(parameter, model.initial(name, config.seed))
    return model


def is_sharded(tensor: Tensor) -> bool:
    """True for a DTensor; tells without importing DTensor, which takes a second."""
    return hasattr(tensor, "full_tensor")


def shard(model: Llama, world: World) -> None:
    """Apply FSDP2: one unit per block, the embeddings and the final norm in the root; gradients reduced in float32."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    # Ternary weights are rounded from the float32 masters, so that export finds exactly the same codes.
    gathered = model.compute_dtype if model.spec.linear == "dense" else torch.float32
    policy = MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in model.model.layers:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    # A tied embedding collects gradients from both its uses: in float32.
    root = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
    fully_shard(model, mesh=mesh, mp_policy=root, reshard_after_forward=False)


@torch.no_grad()
def assign(target: Tensor, value: Tensor) -> None:
    """Set a tensor, whole or sharded, from the whole value that every process has."""
    if is_sharded(target):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)  # what has full_tensor() is one
        value = value.to(target.device)
        part = distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
        target.to_local().copy_(part.to_local())
    else:
        target.copy_(value)


@torch.no_grad()
def whole(
    tensors: Iterator[tuple[str, Tensor]], mine: Callable[[str], bool], *, copy: bool = False
) -> dict[str, Tensor]:
    """The whole tensors whose names are `mine`, on the CPU; every process must call it with the same tensors.

    Without `copy`, a tensor that is whole and on the CPU already is not copied: the next step changes it.
    """
    kept = {}
    for name, tensor in tensors:
        full: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]  # a DTensor
        if mine(name):
            kept[name] = full.detach().to("cpu", copy=copy).contiguous()
    return kept
