"""The peak memory of a training step, simulated with the trainer's own code, beside what `conform train plan` says.

    python bench/memory.py --contract base-1.5b [--devices 8] [--micro-batch 2] [--accumulate 1] [--layers 0]

The step runs on tensors without content: every operation is carried out except for its arithmetic, so that 1.5 billion
parameters need no memory, and eight devices are one process in a process group that communicates with nobody. After
every operation the bytes of all tensors that one device would hold are added up. The sum is exact for what torch
allocates in eager mode, and knows nothing of a GPU's context, its kernels' workspaces and its allocator's fragments.
"""

import argparse
import dataclasses
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from conform.contract.load import load_contract
from conform.contract.spec import ModelSpec
from conform.trainer.config import TrainConfig
from conform.trainer.distributed.fsdp import compute_dtype, shard
from conform.trainer.distributed.world import World
from conform.trainer.model.model import Llama
from conform.trainer.planning.memory import memory_plan
from conform.trainer.run.optimizer import build_optimizer

CPU = torch.device("cpu")


def main() -> None:
    arguments = parse()
    spec = load_contract(arguments.contract).model
    spec = dataclasses.replace(spec, layers=arguments.layers or spec.layers)
    config = TrainConfig(
        steps=1,
        batch=arguments.devices * arguments.micro_batch * arguments.accumulate,
        sequence=arguments.sequence or spec.context,
        dtype="bf16",
        recompute=arguments.recompute,
        loss_chunk=arguments.loss_chunk,
    )
    plan = memory_plan(spec, config, arguments.devices, arguments.micro_batch)
    simulated = simulate(spec, config, arguments.devices, arguments.micro_batch)
    print(f"{'planned':12}{plan.allocated / 2**30:10.3f} GiB, {plan.peak.name}")
    print(f"{'simulated':12}{simulated / 2**30:10.3f} GiB")
    print(f"{'ratio':12}{plan.allocated / simulated:10.3f}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contract", default="base-1.5b")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--micro-batch", type=int, default=2)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--sequence", type=int, default=0)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--loss-chunk", type=int, default=8192)
    parser.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def simulate(spec: ModelSpec, config: TrainConfig, devices: int, micro_batch: int) -> int:
    """The most bytes that one device holds at any time during two steps of the config."""
    with together(devices), FakeTensorMode(allow_non_fake_inputs=True):
        model = empty_model(spec, config)
        if devices > 1:
            shard(model, World(0, devices, CPU))
        optimizer = build_optimizer(model, config)
        with Peak() as peak:
            peak.add(list(model.parameters()))
            peak.add([list(slots.values()) for slots in optimizer.state.values()])
            for _ in range(2):
                for _ in range(config.batch // (devices * micro_batch)):
                    tokens = torch.zeros(micro_batch, config.sequence + 1, dtype=torch.int64)
                    model(tokens[:, :-1], tokens[:, 1:]).backward()
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return peak.nbytes


def empty_model(spec: ModelSpec, config: TrainConfig) -> Llama:
    """The model with parameters that hold nothing; called within FakeTensorMode."""
    with torch.device("meta"):
        model = Llama(
            spec, compute_dtype=compute_dtype(config), recompute=config.recompute, loss_chunk=config.loss_chunk
        )
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, torch.nn.Parameter(torch.empty(parameter.shape)))
    return model


@contextmanager
def together(devices: int) -> Iterator[None]:
    """A process group of that many processes, of which only this one exists."""
    if devices == 1:
        yield
        return
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=devices)
    try:
        # A mesh reads its ranks from a tensor, which must have content.
        mesh = dist.device_mesh.init_device_mesh("cpu", (devices,))
        with mock.patch("torch.distributed.device_mesh.init_device_mesh", return_value=mesh):
            yield
    finally:
        dist.destroy_process_group()


class Peak(TorchDispatchMode):
    """Watches every operation; `nbytes` is the most that all living storages held together."""

    def __init__(self) -> None:
        super().__init__()
        self.nbytes = 0
        self._living: weakref.WeakSet[Any] = weakref.WeakSet()

    def add(self, tensors: Any) -> None:
        """Count these tensors, however nested, as long as they live; of a sharded one, this process's part."""
        for tensor in tree_leaves(tensors):
            if isinstance(tensor, Tensor):
                local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
                self._living.add(local.untyped_storage())

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = function(*arguments, **(keywords or {}))
        self.add(result)
        # Added up each time, for FSDP2 empties and refills storages that stay alive.
        self.nbytes = max(self.nbytes, sum(storage.nbytes() for storage in self._living))
        return result


if __name__ == "__main__":
    main()
