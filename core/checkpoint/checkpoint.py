"""Checkpoint: safetensors opened lazily; names, shapes and dtypes first, one tensor's values on request."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from conform.contract.check import TensorSeen
from conform.contract.load import load_contract
from conform.contract.quantisation import PLAIN, Stored, stored_weights
from conform.contract.spec import Contract
from conform.core.checkpoint.locate import locate_checkpoint
from conform.core.checkpoint.safetensors_header import StoredTensor, read_safetensors_header
from conform.core.checkpoint.safetensors_index import (
    ADAPTER_CONFIG,
    MERGE,
    read_safetensors_folder,
    read_safetensors_index,
)
from conform.core.checkpoint.sidecar import SIDECAR_NAME, Sidecar, listed_path, read_sidecar
from conform.core.checkpoint.stored_weights import join_weights
from conform.core.checkpoint.weight import Weight, check_finite, equal_values, read_weight
from conform.core.errors import CheckpointError
from conform.core.files.digest import file_sha256
from conform.core.files.json import read_json_object
from conform.core.quantizer import Float32
from conform.core.tokenizer.tokenizer import find_tokenizer

__all__ = ["Checkpoint", "contract_of", "open_checkpoint"]

_WAIT = "try again when nothing writes it any more"


class Checkpoint:
    """The weights of one folder (or one safetensors file), and what stands beside them.

    Frozen once opened: headers are read at once, values only by `read`.
    """

    def __init__(
        self,
        path: Path,
        folder: Path,
        stored: Mapping[str, StoredTensor],
        weights: Mapping[str, Weight],
        sidecar: Sidecar | None,
        form: Stored,
    ) -> None:
        self.path = path
        """The folder, or the file: as it was asked for, or where the folder that was asked for leads to."""
        self.folder = folder
        self.sidecar = sidecar
        self.form = form
        """How its linear layers are stored."""
        self._stored = stored
        self._weights = weights
        self._finite: set[str] = set()

    @property
    def tensors(self) -> Mapping[str, TensorSeen]:
        """Name → shape and dtype of every weight's values: F32 for a quantised one, whose scales are part of it."""
        return {name: TensorSeen(weight.shape, weight.dtype) for name, weight in self._weights.items()}

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that hold weights, sorted."""
        return tuple(sorted({tensor.path for tensor in self._stored.values()}))

    @property
    def tokenizer_path(self) -> Path | None:
        """The tokenizer beside the weights, a SentencePiece model or else a tokenizer.json, or None."""
        return find_tokenizer(self.folder)

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
        self.__dict__["digest"] = self._hash(progress)
        return self.digest

    def check_unchanged(self) -> None:
        """Pass when every weight file still is what was opened and hashed; hashes all of them anew.

        Raises CheckpointError otherwise: what was read in between then belongs to no digest.
        """
        for path in self.files:
            found = read_safetensors_header(path)
            if any(found.get(name) != tensor for name, tensor in self._stored.items() if tensor.path == path):
                raise CheckpointError(f"{path}: changed while it was read; {_WAIT}")
        now = self._hash()
        if now != self.digest:
            change = f"from digest {self.digest[:16]}… to {now[:16]}…"
            raise CheckpointError(f"{self.path}: changed while it was read, {change}; {_WAIT}")

    def _hash(self, progress: Callable[[int], None] | None = None) -> str:
        stated = dict(self.sidecar.files) if self.sidecar else {}
        lines = []
        for path in sorted({*self.files, *(listed_path(self.folder, name) for name in stated)}):
            name = path.relative_to(self.folder).as_posix()
            if not path.is_file():
                raise CheckpointError(
                    f"{path}: missing, though {SIDECAR_NAME} lists it; the checkpoint is not complete"
                )
            if stated and name not in stated:
                raise CheckpointError(
                    f"{path}: holds weights, but {SIDECAR_NAME} does not list it; nothing shows a change"
                )
            actual = file_sha256(path, progress)
            if stated.get(name, actual) != actual:
                raise CheckpointError(
                    f"{path}: sha256 is {actual}, but {SIDECAR_NAME} lists {stated[name]}; the file has changed"
                )
            if path in self.files:
                lines.append(f"{actual}  {name}\n")
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def read(self, name: str) -> Float32:
        """The values of one weight as float32, a fresh array in its shape: codes and scales are multiplied.

        Raises CheckpointError for a name that is not there, a dtype that holds no weights, or data that are gone or
        mean nothing.
        """
        return read_weight(self._find(name))

    def check_finite(self, name: str) -> None:
        """Pass when every value of the tensor is finite; reads it in pieces.

        Raises CheckpointError naming the tensor and the place of its first NaN or infinity.
        """
        if name not in self._finite:  # several exports of one checkpoint look once
            check_finite(self._find(name))
            self._finite.add(name)

    def without_tied_copy(self) -> "Checkpoint":
        """The same checkpoint without an `lm_head.weight` of the same values as the embedding that it is tied to.

        Raises CheckpointError when the two differ: then the model is not tied.
        """
        copy, embedding = ("lm_head.weight", "model.embed_tokens.weight")
        if copy not in self._weights or embedding not in self._weights:
            return self
        if not equal_values(self._weights[copy], self._weights[embedding]):
            raise CheckpointError(
                f"{self.path}: lm_head.weight differs from model.embed_tokens.weight, though the contract ties them; "
                "use a contract with tied_embeddings = false"
            )
        kept = {name: weight for name, weight in self._weights.items() if name != copy}
        # The copy stays among what is stored: its file is part of the checkpoint, and so of its digest.
        return Checkpoint(self.path, self.folder, self._stored, kept, self.sidecar, self.form)

    def _find(self, name: str) -> Weight:
        if name not in self._weights:
            raise CheckpointError(f"{self.path}: no tensor {name}")
        return self._weights[name]


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in that folder (one file, or shards with or without an index), or that one safetensors file.

    A run's folder leads to its newest checkpoint, a hub's cache to its snapshot. Raises InputError naming the file at
    fault.
    """
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    path = locate_checkpoint(path)
    folder = path if path.is_dir() else path.parent
    sidecar = read_sidecar(folder)
    if path.is_dir():
        stored = read_safetensors_folder(path)
    elif path.name.endswith(".index.json"):
        stored = read_safetensors_index(path)
    else:
        stored = read_safetensors_header(path)
        # A file beside a sidecar that does not list it is another model.
        sidecar = sidecar if sidecar is not None and path.name in sidecar.files else None
    _refuse_adapter(path, stored)
    form = _form(folder, sidecar)
    return Checkpoint(path, folder, stored, join_weights(stored, form), sidecar, form)


def contract_of(checkpoint: Checkpoint, asked: str | None) -> Contract:
    """The contract asked for, else the sidecar's, else the one that config.json implies.

    Raises CheckpointError when the checkpoint was made under another one than that asked for, or nothing says what the
    model is.
    """
    sidecar = checkpoint.sidecar
    if asked is not None:
        contract = load_contract(asked)
        if sidecar is not None and contract.digest != sidecar.contract_digest:
            raise CheckpointError(
                f"{checkpoint.path}: made under contract {sidecar.contract.name} ({sidecar.contract_digest[:12]}), "
                f"not {contract.name} ({contract.digest[:12]}); `conform contract diff` shows what differs"
            )
        _refuse_other_reading(checkpoint, contract)
        return contract
    if sidecar is not None:
        return sidecar.contract
    from conform.core.checkpoint.inference import inference_of

    if (inferred := inference_of(checkpoint, asked)) is not None:
        return inferred.contract
    raise CheckpointError(
        f"{checkpoint.path}: neither {SIDECAR_NAME} nor config.json beside the weights says what the model is; "
        "name its contract with --contract"
    )


def _refuse_adapter(path: Path, stored: Mapping[str, StoredTensor]) -> None:
    if path.is_dir() and (path / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"{path}: {ADAPTER_CONFIG} makes this a base model with an adapter (PEFT); {MERGE}")
    if any(".lora_" in name or name.startswith("base_model.") for name in stored):
        raise CheckpointError(f"{path}: is an adapter (PEFT), not a model; {MERGE}")


def _refuse_other_reading(checkpoint: Checkpoint, contract: Contract) -> None:
    """Pass when the contract's linear layers compute with the weights as config.json says that they are meant."""
    expected = {"bitnet-online": "ternary", "bitnet-packed": "ternary-stored"}.get(checkpoint.form.weights)
    if expected not in (None, contract.model.linear):
        raise CheckpointError(
            f'{checkpoint.path}: config.json stores weights for linear = "{expected}", but contract {contract.name} '
            f'has "{contract.model.linear}"; use a contract with the former'
        )


def _form(folder: Path, sidecar: Sidecar | None) -> Stored:
    """How the weights are stored: plainly in a checkpoint that conform wrote, else as config.json says."""
    path = folder / "config.json"
    if sidecar is not None or not path.is_file():
        return PLAIN
    return stored_weights(read_json_object(path, "a Hugging Face configuration"), str(path))
