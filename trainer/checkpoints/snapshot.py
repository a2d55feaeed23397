"""Snapshot: a run's state at one step, copied off the devices and divided among the processes as files to write."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW

from conform.contract.spec import Contract
from conform.core.files.atomic import sync_path
from conform.trainer.checkpoints.huggingface import huggingface_config
from conform.trainer.checkpoints.state import TrainState, capture_random
from conform.trainer.distributed.fsdp import whole
from conform.trainer.distributed.world import World
from conform.trainer.errors import TrainError
from conform.trainer.run.optimizer import slots

__all__ = ["OPTIMIZER_STEM", "WEIGHTS_STEM", "Snapshot", "divide", "take_snapshot", "write_files"]

WEIGHTS_STEM = "model"
OPTIMIZER_STEM = "resume/optimizer"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """This process's share of a checkpoint: tensors by file, and small files as bytes. Names are relative."""

    state: TrainState
    tensors: Mapping[str, Mapping[str, Tensor]]
    texts: Mapping[str, bytes]


def take_snapshot(
    contract: Contract,
    model: nn.Module,
    optimizer: AdamW,
    state: TrainState,
    tokenizer: bytes,
    world: World,
    shard_bytes: int,
    *,
    lasting: bool,
) -> Snapshot:
    """Everything that exact resumption needs; every process must call it at the same step.

    `lasting`: it will be written while training goes on, which must not change it.
    """
    tensors: dict[str, dict[str, Tensor]] = {}
    texts = {f"resume/random-{world.rank:05d}.json": capture_random(world.device).encode()}
    for stem, found in ((WEIGHTS_STEM, model.named_parameters()), (OPTIMIZER_STEM, slots(model, optimizer))):
        named = list(found)
        files = divide(((name, tensor.numel() * 4) for name, tensor in named), stem, shard_bytes)
        owners = {file: number % world.size for number, file in enumerate(dict.fromkeys(files.values()))}
        mine = {name for name, file in files.items() if owners[file] == world.rank}
        kept = whole(iter(named), mine.__contains__, copy=lasting)
        for name, tensor in kept.items():
            tensors.setdefault(files[name], {})[name] = tensor
        if world.main and len(owners) > 1:
            texts[f"{stem}.safetensors.index.json"] = _index(files, named)
    if world.main:
        texts |= {
            "tokenizer.model": tokenizer,
            "config.json": (json.dumps(huggingface_config(contract), indent=2) + "\n").encode(),
            "resume/state.json": state.to_json().encode(),
        }
    return Snapshot(state, tensors, texts)


def divide(sizes: Iterable[tuple[str, int]], stem: str, largest: int) -> dict[str, str]:
    """The file of each tensor: one file, or several of at most `largest` bytes (a larger tensor has its own)."""
    groups: list[list[str]] = [[]]
    room = largest
    for name, nbytes in sizes:
        if groups[-1] and nbytes > room:
            groups.append([])
            room = largest
        groups[-1].append(name)
        room -= nbytes
    if len(groups) == 1:
        return dict.fromkeys(groups[0], f"{stem}.safetensors")
    width = f"{len(groups):05d}"
    return {name: f"{stem}-{i:05d}-of-{width}.safetensors" for i, group in enumerate(groups, 1) for name in group}


def write_files(snapshot: Snapshot, folder: Path) -> None:
    """Write this process's files into the folder, durably. Raises TrainError with the reason when one cannot be."""
    try:
        (folder / "resume").mkdir(parents=True, exist_ok=True)
        for name, tensors in snapshot.tensors.items():
            path = folder / name
            path.touch()
            mode = path.stat().st_mode
            save_file(dict(tensors), path, metadata={"format": "pt"})
            path.chmod(mode)  # safetensors makes files that nobody else may read
            sync_path(path)
        for name, content in snapshot.texts.items():
            (folder / name).write_bytes(content)
            sync_path(folder / name)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrainError(f"{folder.parent}: cannot be written: {reason}") from error


def _index(files: Mapping[str, str], named: list[tuple[str, Tensor]]) -> bytes:
    total = sum(tensor.numel() * torch.float32.itemsize for _, tensor in named)
    weight_map = {name: Path(file).name for name, file in files.items()}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    return (json.dumps(index, indent=2) + "\n").encode()
