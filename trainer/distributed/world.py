"""World: the processes of a run, alone or under torchrun; one code path for both."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from conform.trainer.config import TrainConfig
from conform.trainer.distributed.allocator import keep_freed_memory
from conform.trainer.distributed.rendezvous import fresh_store
from conform.trainer.distributed.torchrun import is_first_of_host
from conform.trainer.errors import TrainError

__all__ = ["World", "exit_worker", "has_bfloat16", "join", "leave"]


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of the run; `background` is a process group for the thread that saves.

    A collective on the training group from another thread would interleave with training and deadlock.
    """

    rank: int
    size: int
    device: torch.device
    background: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """True in the one process that writes metrics and prints."""
        return self.rank == 0

    @property
    def first_of_host(self) -> bool:
        """True in one process of each host."""
        return is_first_of_host()

    def sums(self, values: Sequence[float]) -> list[float]:
        """The element-wise sums over all processes, in float64."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total)
        return [float(value) for value in total]

    def agree(self, text: str) -> str:
        """The text of the first process, in every process."""
        if self.size == 1:
            return text
        length = torch.tensor([len(text.encode())])
        dist.broadcast(length, 0)
        content = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if self.main and text else None
        content = content if content is not None else torch.empty(int(length), dtype=torch.uint8)
        if int(length):
            dist.broadcast(content, 0)
        return bytes(content.tolist()).decode()

    def all_well(self, well: bool) -> bool:
        """True when all is well in every process; safe to call from the thread that saves."""
        if self.size == 1:
            return well
        flag = torch.tensor([int(well)])
        dist.all_reduce(flag, dist.ReduceOp.MIN, group=self.background)
        return bool(flag)

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


def join(config: TrainConfig) -> World:
    """This process's place in the run; sets threads, determinism and the device.

    Raises TrainError when the device that was asked for is not there.
    """
    device = _device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    _be_deterministic()
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World(0, 1, device)
    limit = timedelta(seconds=config.timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, rank, size = fresh_store(limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=limit)
    return World(rank, size, device, dist.new_group(backend="gloo", timeout=limit))


def leave(world: World) -> None:
    """End the run's process groups, together."""
    if world.size > 1:
        dist.barrier()
        dist.destroy_process_group()


def exit_worker(status: int) -> NoReturn:
    """End a worker process immediately: gloo's threads sometimes abort an interpreter that shuts down normally."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _device(asked: str) -> torch.device:
    available = torch.cuda.is_available()
    if asked == "cuda" and not available:
        raise TrainError("device = cuda: this torch sees no CUDA device; use --device cpu or install a CUDA build")
    if asked == "cpu" or not available:
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _be_deterministic() -> None:
    # cuBLAS reads this when it is first used.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # Filling fresh memory guards against reading it uninitialised, which this code never does; it costs bandwidth.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # documented, not typed
    torch.backends.cudnn.benchmark = False


def has_bfloat16(device: torch.device) -> bool:
    """True where bfloat16 products are fast: on a GPU, and with AVX-512 BF16 or AMX; elsewhere they are emulated."""
    from torch.cpu import _is_amx_tile_supported, _is_avx512_bf16_supported

    return device.type == "cuda" or bool(_is_avx512_bf16_supported() or _is_amx_tile_supported())
