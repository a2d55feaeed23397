"""Safetensors index: the shards of one checkpoint, each tensor in the shard where the index places it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from conform.core.checkpoint.safetensors_header import StoredTensor, read_safetensors_header
from conform.core.errors import CheckpointError
from conform.core.files.json import read_json_object

__all__ = ["INDEX_NAME", "WEIGHTS_NAME", "read_safetensors_folder", "read_safetensors_index", "read_weight_map"]

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

_MOST_SHARDS = 10_000
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_safetensors_folder(folder: Path) -> Mapping[str, StoredTensor]:
    """The tensors of a folder: of its index, or else of its one file.

    Raises InputError naming the file at fault, or the folder when it holds no weights.
    """
    if (folder / INDEX_NAME).is_file():
        return read_safetensors_index(folder / INDEX_NAME)
    if (folder / WEIGHTS_NAME).is_file():
        return read_safetensors_header(folder / WEIGHTS_NAME)
    raise CheckpointError(f"{folder}: holds neither {WEIGHTS_NAME} nor {INDEX_NAME}{_pickled(folder)}")


def _pickled(folder: Path) -> str:
    # Named, never opened: a pickle runs whatever code it holds.
    found = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    return f", but {found[0]}, a pickle, which conform never loads: convert it to safetensors" if found else ""


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
