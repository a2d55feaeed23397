"""Safetensors index: the shards of one checkpoint, each tensor in the shard where the index places it."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from conform.core.checkpoint.safetensors_header import StoredTensor, read_safetensors_header
from conform.core.errors import CheckpointError
from conform.core.files.json import read_json_object

__all__ = [
    "ADAPTER_CONFIG",
    "INDEX_NAME",
    "MERGE",
    "WEIGHTS_NAME",
    "read_safetensors_folder",
    "read_safetensors_index",
    "read_weight_map",
]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
MERGE = "merge it into its base model first, and give the merged checkpoint"

_MOST_SHARDS = 10_000
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.safetensors")
# What may stand in a folder in place of weights, and what to say of it. A pickle runs whatever code it holds.
_OTHERS = (
    (("adapter_model.*", ADAPTER_CONFIG), f"an adapter (PEFT), not a model: {MERGE}"),
    (("*.bin", "*.pt", "*.pth", "*.ckpt"), "a pickle, which conform never loads: convert it to safetensors"),
    (("*.gguf",), "a GGUF file: give the checkpoint that it was exported from"),
    (("*.safetensors.index.json",), "an index of another name: give its path"),
)


def read_safetensors_folder(folder: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a folder: of its index, or else of its one file, or else of shards that have no index.

    Raises InputError naming the file at fault, or the folder when it holds no weights.
    """
    if _is_there(folder / INDEX_NAME):
        return read_safetensors_index(folder / INDEX_NAME)
    if _is_there(folder / WEIGHTS_NAME):
        return read_safetensors_header(folder / WEIGHTS_NAME)
    shards = _only_set(folder)
    stored: dict[str, StoredTensor] = {}
    for shard in shards:
        tensors = read_safetensors_header(folder / shard)
        if twice := sorted(tensors.keys() & stored.keys()):
            raise CheckpointError(
                f"{folder / shard}: holds {twice[0][:80]}, which {stored[twice[0]].path.name} holds too"
            )
        stored |= tensors
    return stored


def _is_there(path: Path) -> bool:
    # A link to a file that was not downloaded is named when it is opened, and not passed over.
    return path.is_file() or path.is_symlink()


def _only_set(folder: Path) -> list[str]:
    """The folder's one file, or its one set of shards; of several sets, the one called "model" counts."""
    names = sorted(
        path.name for path in folder.glob("*.safetensors") if not path.name.startswith((".", "adapter_model."))
    )
    sets: dict[str, list[str]] = {}
    for name in names:
        match = _SHARD.fullmatch(name)
        sets.setdefault(f"{match[1]}-of-{match[3]}" if match else name, []).append(name)
    chosen = [shards for label, shards in sets.items() if label.startswith("model-of-")] or list(sets.values())
    if not chosen:
        raise CheckpointError(f"{folder}: holds neither {WEIGHTS_NAME} nor {INDEX_NAME}{_found_instead(folder)}")
    if len(chosen) > 1:
        listed = ", ".join(shards[0] for shards in chosen[:8])
        raise CheckpointError(
            f"{folder}: holds {len(chosen)} checkpoints, {listed}; give the path of one file or index"
        )
    _check_complete(folder, chosen[0])
    return chosen[0]


def _check_complete(folder: Path, shards: list[str]) -> None:
    match = _SHARD.fullmatch(shards[0])
    if match is None:
        return
    count = int(match[3])
    if count > _MOST_SHARDS:
        raise CheckpointError(f"{folder}: {shards[0]} is one of {count} shards; expected at most {_MOST_SHARDS}")
    expected = [f"{match[1]}-{number:05}-of-{match[3]}.safetensors" for number in range(1, count + 1)]
    if missing := sorted(set(expected) - set(shards)):
        raise CheckpointError(f"{folder}: {missing[0]} is missing ({len(missing)} of {count} shards)")


def _found_instead(folder: Path) -> str:
    for patterns, sentence in _OTHERS:
        if found := sorted(path.name for pattern in patterns for path in folder.glob(pattern)):
            return f", but {found[0]}, {sentence}"
    return ""


def read_safetensors_index(index: Path) -> Mapping[str, StoredTensor]:
    """The tensors of all shards that an index names.

    Raises InputError for a shard that is missing or does not hold exactly what the index places there.
    """
    weight_map = read_weight_map(index)
    stored: dict[str, StoredTensor] = {}
    for shard in sorted(set(weight_map.values())):
        tensors = read_safetensors_header(index.parent / shard)
        _check_shard(index, shard, set(tensors), weight_map)
        stored |= tensors
    return stored


def read_weight_map(index: Path) -> Mapping[str, str]:
    """Tensor name → the file in the index's folder that holds it.

    Raises InputError when it cannot be read, CheckpointError when it is no such table or names other places.
    """
    weight_map = read_json_object(index, "an index of safetensors files").get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is not a table of tensor names and file names")
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MOST_SHARDS:
        raise CheckpointError(f"{index}: names {len(shards)} shards; expected at most {_MOST_SHARDS}")
    for shard in shards:
        if Path(shard).name != shard or not shard.isprintable():
            raise CheckpointError(f"{index}: names the shard {shard[:80]!r}; expected a file in the same folder")
    return weight_map


def _check_shard(index: Path, shard: str, found: Iterable[str], weight_map: Mapping[str, str]) -> None:
    expected = {name for name, where in weight_map.items() if where == shard}
    if missing := sorted(expected - set(found)):
        raise CheckpointError(
            f"{index}: {missing[0][:80]} should be in {shard} but is not ({len(missing)} such tensors)"
        )
    if unknown := sorted(set(found) - expected):
        raise CheckpointError(f"{index}: {shard} holds {unknown[0][:80]}, which the index does not place there")
