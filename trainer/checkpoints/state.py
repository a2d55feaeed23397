"""State: where a run stands, besides its tensors, as JSON: never a pickle."""

import dataclasses
import json
import platform
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conform.contract.mapping import from_mapping
from conform.core.files.json import read_json_object
from conform.trainer.errors import TrainError

__all__ = ["Environment", "TrainState", "capture_random", "read_state", "restore_random", "seed_random"]

_FORMAT = 1
_LARGEST_FILE = 16 << 20


@dataclass(frozen=True, slots=True)
class Environment:
    """What a bitwise continuation must find unchanged, besides the code."""

    world: int
    threads: int
    device: str
    dtype: str
    torch_version: str
    machine: str

    @staticmethod
    def here(world: int, device: torch.device, dtype: str) -> "Environment":
        """The environment of this process."""
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
        return Environment(
            world, torch.get_num_threads(), device.type, dtype, torch.__version__, f"{platform.machine()} {gpu}"
        )

    def differences(self, other: "Environment") -> list[str]:
        """What differs, as `name: this, was that`."""
        pairs = ((item.name, getattr(self, item.name), getattr(other, item.name)) for item in dataclasses.fields(self))
        return [f"{name}: {mine}, was {theirs}" for name, mine, theirs in pairs if mine != theirs]


@dataclass(frozen=True, slots=True)
class TrainState:
    """A run at an optimiser-step boundary; the position in the data is a function of `step`."""

    step: int
    tokens: int
    contract_digest: str
    tokenizer_digest: str
    data_digest: str
    config: Mapping[str, Any]
    environment: Environment

    def to_json(self) -> str:
        """The text of resume/state.json."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True) + "\n"


def read_state(path: Path) -> TrainState:
    """The state in that file. Raises InputError when it cannot be read, TrainError when it is of another format."""
    data = dict(read_json_object(path, "a training state", largest=_LARGEST_FILE))
    if (found := data.pop("format", None)) != _FORMAT:
        raise TrainError(f"{path}: format = {found!r:.80}: this version reads format {_FORMAT}")
    return from_mapping(TrainState, data, str(path))


def seed_random(seed: int, rank: int) -> None:
    """Set every random generator of this process to a state that is a function of seed and rank alone.

    Training draws nothing from them, but checkpoints hold their states, and equal runs leave equal bytes.
    """
    random.seed(f"{seed} {rank}")
    np.random.seed([seed % 2**32, rank])
    torch.manual_seed(seed + rank)


def capture_random(device: torch.device) -> str:
    """The state of every random generator of this process, as JSON.

    Training draws nothing after the weights are made: this is for code that is built on the trainer.
    """
    version, words, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": [version, list(words), gauss],
        "numpy": [kind, [int(key) for key in np.asarray(keys)], position, has_gauss, cached],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
        "cuda": bytes(torch.cuda.get_rng_state(device).tolist()).hex() if device.type == "cuda" else None,
    }
    return json.dumps(state) + "\n"


def restore_random(path: Path, device: torch.device) -> None:
    """Set every random generator of this process to the state that `capture_random` left in that file.

    Raises InputError when it cannot be read, TrainError for anything else in it.
    """
    state = read_json_object(path, "the random state", largest=_LARGEST_FILE)
    try:
        version, words, gauss = state["python"]
        random.setstate((version, tuple(words), gauss))
        kind, keys, position, *rest = state["numpy"]
        if not 0 <= position <= len(keys):  # NumPy believes it, and would draw from the memory behind the keys
            raise ValueError(f"numpy's position is {position}")
        np.random.set_state((kind, np.array(keys, np.uint32), position, *rest))
        torch.set_rng_state(_tensor(state["torch"]))
        if device.type == "cuda" and state["cuda"]:
            torch.cuda.set_rng_state(_tensor(state["cuda"]), device)
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise TrainError(f"{path}: the random state cannot be restored: {reason}") from error


def _tensor(hexadecimal: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(hexadecimal), dtype=torch.uint8)
