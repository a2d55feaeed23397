"""Checkpoint: safetensors opened lazily; names, shapes and dtypes first, one tensor's values on request."""

import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conform.contract.check import TensorSeen
from conform.contract.load import load_contract
from conform.contract.spec import Contract
from conform.core.errors import CheckpointError
from conform.core.quantizer import Float32
from conform.core.safetensors_header import StoredTensor, read_safetensors_header
from conform.core.sidecar import SIDECAR_NAME, Sidecar, file_sha256, read_sidecar

__all__ = ["Checkpoint", "contract_of", "newest_checkpoint", "open_checkpoint"]

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LARGEST_JSON = 100 << 20
_MOST_SHARDS = 10_000
# Bytes of one read: large enough for the disk, small beside a tensor.
_CHUNK = 16 << 20
# dtype → its bits as a whole number, and those of the exponent: all of them are set in NaN and infinity alone.
_EXPONENTS: Mapping[str, tuple[str, int]] = {
    "F32": ("<u4", 0x7F800000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
}


class Checkpoint:
    """The weights of one folder (or one safetensors file), and what stands beside them.

    Frozen once opened: headers are read at once, values only by `read`.
    """

    def __init__(self, path: Path, folder: Path, stored: Mapping[str, StoredTensor], sidecar: Sidecar | None) -> None:
        self.path = path
        """As it was asked for: the folder, or the file."""
        self.folder = folder
        self.sidecar = sidecar
        self._stored = stored

    @property
    def tensors(self) -> Mapping[str, TensorSeen]:
        """Name → shape and dtype of every tensor."""
        return {name: TensorSeen(tensor.shape, tensor.dtype) for name, tensor in self._stored.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold weights, sorted."""
        return tuple(sorted({tensor.path for tensor in self._stored.values()}))

    @property
    def tokenizer_path(self) -> Path | None:
        """The SentencePiece model beside the weights, or None."""
        path = self.folder / "tokenizer.model"
        return path if path.is_file() else None

    @property
    def config_path(self) -> Path | None:
        """Hugging Face's config.json beside the weights, or None."""
        path = self.folder / "config.json"
        return path if path.is_file() else None

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the lines `SHA256  NAME` of the weight files: what `sha256sum *.safetensors | sha256sum` prints."""
        return self.hash_files()

    def hash_files(self, progress: Callable[[int], None] | None = None) -> str:
        """The digest; hashes every file that the sidecar lists or that holds weights, and keeps the result.

        Raises CheckpointError naming a file that is missing or is not the one the sidecar lists.
        """
        stated = dict(self.sidecar.files) if self.sidecar else {}
        lines = []
        for path in sorted({*self.files, *(self.folder / name for name in stated)}):
            name = path.relative_to(self.folder).as_posix()
            if not path.is_file():
                raise CheckpointError(
                    f"{path}: missing, though {SIDECAR_NAME} lists it; the checkpoint is not complete"
                )
            actual = file_sha256(path, progress)
            if stated.get(name, actual) != actual:
                raise CheckpointError(
                    f"{path}: sha256 is {actual}, but {SIDECAR_NAME} lists {stated[name]}; the file has changed"
                )
            if path in self.files:
                lines.append(f"{actual}  {name}\n")
        self.__dict__["digest"] = hashlib.sha256("".join(lines).encode()).hexdigest()
        return self.digest

    def read(self, name: str) -> Float32:
        """The values of one tensor as float32, a fresh array in its stored shape.

        Raises CheckpointError for a name that is not there, a dtype that holds no weights, or data that have gone.
        """
        tensor = self._find(name)
        with np.errstate(invalid="ignore"):  # a signalling NaN is reported by whoever checks the values
            return _as_float32(_read_raw(name, tensor), name, tensor)

    def check_finite(self, name: str) -> None:
        """Pass when every value of the tensor is finite; reads it in pieces.

        Raises CheckpointError naming the tensor and its first NaN or infinity.
        """
        tensor = self._find(name)
        exponent = _EXPONENTS.get(tensor.dtype)
        if exponent is None:
            raise _no_weights(name, tensor)
        kind, mask = exponent
        seen = 0
        for chunk in _chunks(tensor):
            bits = np.frombuffer(chunk[: len(chunk) // 4 * 4], np.dtype(kind))
            bad = (bits & bits.dtype.type(mask)) == mask
            if bad.any():
                first = seen + int(np.argmax(bad))
                index = tuple(int(i) for i in np.unravel_index(first, tensor.shape)) if tensor.shape else ()
                value = self.read(name)[index]
                raise CheckpointError(
                    f"{tensor.path}: {name}: the value at {list(index)} is {value}; nothing can hold it"
                )
            seen += len(bits)

    def without_tied_copy(self) -> "Checkpoint":
        """The same checkpoint less an `lm_head.weight` that is byte-equal to the embedding which it is tied to.

        Raises CheckpointError when the two differ: then the model is not tied.
        """
        copy, embedding = ("lm_head.weight", "model.embed_tokens.weight")
        if copy not in self._stored or embedding not in self._stored:
            return self
        if not self._equal(copy, embedding):
            raise CheckpointError(
                f"{self.path}: lm_head.weight differs from model.embed_tokens.weight, though the contract ties them; "
                "use a contract with tied_embeddings = false"
            )
        kept = {name: tensor for name, tensor in self._stored.items() if name != copy}
        return Checkpoint(self.path, self.folder, kept, self.sidecar)

    def _find(self, name: str) -> StoredTensor:
        if name not in self._stored:
            raise CheckpointError(f"{self.path}: no tensor {name}")
        return self._stored[name]

    def _equal(self, left: str, right: str) -> bool:
        a, b = (self._find(left), self._find(right))
        if (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        return all(x == y for x, y in zip(_chunks(a), _chunks(b), strict=True))


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in that folder (one file, or an index and its shards), or that one safetensors file.

    Raises CheckpointError naming the file at fault.
    """
    if path.is_dir():
        stored = _open_folder(path)
        return Checkpoint(path, path, stored, read_sidecar(path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.name.endswith(".index.json"):
        return Checkpoint(path, path.parent, _open_index(path), read_sidecar(path.parent))
    sidecar = read_sidecar(path.parent)
    # A file beside a sidecar that does not list it is another model.
    ours = sidecar if sidecar is not None and path.name in sidecar.files else None
    return Checkpoint(path, path.parent, read_safetensors_header(path), ours)


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The folder of the complete checkpoint that was finished last, anywhere up to three levels under `runs`.

    Raises CheckpointError when there is none.
    """
    sidecars = [
        path for depth in range(4) for path in runs.glob("*/" * depth + SIDECAR_NAME) if _is_finished(runs, path)
    ]
    if not sidecars:
        raise CheckpointError(f"{runs}: no complete checkpoint under this folder; name one, or train one first")
    return max(sidecars, key=lambda path: (path.stat().st_mtime_ns, str(path))).parent


def contract_of(checkpoint: Checkpoint, asked: str | None) -> Contract:
    """The contract asked for, else the sidecar's, else the one that config.json implies.

    Raises CheckpointError when the one asked for is not the one that the checkpoint was made under, or nothing tells.
    """
    sidecar = checkpoint.sidecar
    if asked is not None:
        contract = load_contract(asked)
        if sidecar is not None and contract.digest != sidecar.contract_digest:
            raise CheckpointError(
                f"{checkpoint.path}: made under contract {sidecar.contract.name} ({sidecar.contract_digest[:12]}), "
                f"not {contract.name} ({contract.digest[:12]}); `conform contract diff` tells what differs"
            )
        return contract
    if sidecar is not None:
        return sidecar.contract
    if checkpoint.config_path is not None:
        from conform.contract.infer import contract_from_hf_config

        return contract_from_hf_config(_read_json(checkpoint.config_path), checkpoint.folder.resolve().name)
    raise CheckpointError(
        f"{checkpoint.path}: neither {SIDECAR_NAME} nor config.json beside the weights tells what the model is; "
        "name its contract with --contract"
    )


def _is_finished(runs: Path, sidecar: Path) -> bool:
    # A hidden folder is a checkpoint that is still being written.
    return not any(part.startswith(".") for part in sidecar.relative_to(runs).parent.parts)


def _open_folder(folder: Path) -> Mapping[str, StoredTensor]:
    if (folder / _INDEX).is_file():
        return _open_index(folder / _INDEX)
    if (folder / _WEIGHTS).is_file():
        return read_safetensors_header(folder / _WEIGHTS)
    raise CheckpointError(f"{folder}: holds neither {_WEIGHTS} nor {_INDEX}")


def _open_index(index: Path) -> Mapping[str, StoredTensor]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise CheckpointError(f"{index}: weight_map is not a table of tensor names and file names")
    shards = sorted(set(weight_map.values()))
    if len(shards) > _MOST_SHARDS:
        raise CheckpointError(f"{index}: names {len(shards)} shards; expected at most {_MOST_SHARDS}")
    stored: dict[str, StoredTensor] = {}
    for shard in shards:
        if Path(shard).name != shard or not shard.isprintable():
            raise CheckpointError(f"{index}: names the shard {shard!r}, which is no file in the same folder")
        tensors = read_safetensors_header(index.parent / shard)
        _check_shard(index, shard, set(tensors), weight_map)
        stored |= tensors
    return stored


def _check_shard(index: Path, shard: str, found: Iterable[str], weight_map: Mapping[str, str]) -> None:
    expected = {name for name, where in weight_map.items() if where == shard}
    if missing := sorted(expected - set(found)):
        raise CheckpointError(f"{index}: {missing[0]} should be in {shard} but is not ({len(missing)} such tensors)")
    if unknown := sorted(set(found) - expected):
        raise CheckpointError(f"{index}: {shard} holds {unknown[0]}, which the index does not place there")


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{path}: larger than {_LARGEST_JSON} bytes")
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


def _chunks(tensor: StoredTensor) -> Iterable[bytes]:
    try:
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset)
            for start in range(0, tensor.nbytes, _CHUNK):
                yield file.read(min(_CHUNK, tensor.nbytes - start))
    except OSError as error:
        raise CheckpointError(f"{tensor.path}: cannot be read: {error.strerror}") from error


def _read_raw(name: str, tensor: StoredTensor) -> NDArray[np.uint8]:
    # Read, not mapped: a file that shrinks meanwhile is then an error, where a mapping would kill the process.
    raw = np.empty(tensor.nbytes, np.uint8)
    try:
        with tensor.path.open("rb") as file:
            file.seek(tensor.offset)
            found = file.readinto(memoryview(raw.data))
    except OSError as error:
        raise CheckpointError(f"{tensor.path}: cannot be read: {error.strerror}") from error
    if found != tensor.nbytes:
        raise CheckpointError(
            f"{tensor.path}: {name}: {found} of {tensor.nbytes} bytes are left; the file was truncated"
        )
    return raw


def _as_float32(raw: NDArray[np.uint8], name: str, tensor: StoredTensor) -> Float32:
    if tensor.dtype == "F32":
        return raw.view("<f4").reshape(tensor.shape)
    if tensor.dtype == "F16":
        return raw.view("<f2").astype(np.float32).reshape(tensor.shape)
    if tensor.dtype == "BF16":
        wide = raw.view("<u2").astype(np.uint32)
        return np.left_shift(wide, 16, out=wide).view(np.float32).reshape(tensor.shape)
    raise _no_weights(name, tensor)


def _no_weights(name: str, tensor: StoredTensor) -> CheckpointError:
    return CheckpointError(f"{tensor.path}: {name}: dtype {tensor.dtype} holds no weights; expected F32, F16 or BF16")
