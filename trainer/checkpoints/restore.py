"""Restore: a checkpoint's tensors back into model and optimiser, on any number of processes."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import AdamW

from conform.contract.bounded import require_regular
from conform.core.checkpoint.safetensors_index import read_weight_map
from conform.trainer.checkpoints.snapshot import OPTIMIZER_STEM, WEIGHTS_STEM
from conform.trainer.checkpoints.state import TrainState, restore_random
from conform.trainer.distributed.fsdp import assign
from conform.trainer.distributed.world import World
from conform.trainer.errors import TrainError
from conform.trainer.run.optimizer import slots

__all__ = ["restore"]


def restore(path: Path, state: TrainState, model: nn.Module, optimizer: AdamW, world: World) -> None:
    """Set weights, optimiser and random state to those of the checkpoint.

    Raises InputError for a file that cannot be read, TrainError when a tensor is missing or of another shape.
    """
    _fill(model.named_parameters(), path, WEIGHTS_STEM)
    _fill(slots(model, optimizer), path, OPTIMIZER_STEM)
    for slot in optimizer.state.values():
        slot["step"].fill_(state.step)
    random = path / f"resume/random-{world.rank:05d}.json"
    if state.environment.world == world.size:
        restore_random(random, world.device)


def _fill(targets: Iterable[tuple[str, Tensor]], path: Path, stem: str) -> None:
    try:
        with ExitStack() as stack:
            where: dict[str, Any] = {}
            for file in _files(path, stem):
                require_regular(file)
                opened = stack.enter_context(safe_open(file, framework="pt"))
                where |= dict.fromkeys(opened.keys(), opened)
            # One tensor at a time: the file stays on disk.
            for name, target in targets:
                if name not in where:
                    raise TrainError(f"{path}: {stem}: tensor {name} is missing")
                value = where[name].get_tensor(name)
                if value.shape != target.shape:
                    raise TrainError(f"{path}: {name} has shape {tuple(value.shape)}, expected {tuple(target.shape)}")
                assign(target, value)
    except (OSError, SafetensorError, ValueError) as error:
        raise TrainError(f"{path}: {stem}: cannot be read: {str(error)[:200]}") from error


def _files(path: Path, stem: str) -> list[Path]:
    index = path / f"{stem}.safetensors.index.json"
    if not index.is_file():
        return [path / f"{stem}.safetensors"]
    weight_map = read_weight_map(index)
    return [index.parent / name for name in dict.fromkeys(weight_map.values())]
