"""Checkpoint: safetensors opened lazily; names, shapes and dtypes first, one tensor's values on request."""

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

from conform.contract.check import TensorSeen
from conform.contract.load import load_contract
from conform.contract.spec import Contract
from conform.core.checkpoint.safetensors_header import StoredTensor, read_safetensors_header
from conform.core.checkpoint.safetensors_index import read_safetensors_folder, read_safetensors_index
from conform.core.checkpoint.safetensors_values import check_finite, equal_bytes, read_values
from conform.core.checkpoint.sidecar import SIDECAR_NAME, Sidecar, listed_path, read_sidecar
from conform.core.errors import CheckpointError
from conform.core.files.digest import file_sha256
from conform.core.quantizer import Float32

__all__ = ["Checkpoint", "contract_of", "finished_checkpoints", "newest_checkpoint", "open_checkpoint"]

_WAIT = "try again when nothing writes it any more"


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
        self._finite: set[str] = set()

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
        """The values of one tensor as float32, a fresh array in its stored shape.

        Raises CheckpointError for a name that is not there, a dtype that holds no weights, or data that are gone.
        """
        return read_values(name, self._find(name))

    def check_finite(self, name: str) -> None:
        """Pass when every value of the tensor is finite; reads it in pieces.

        Raises CheckpointError naming the tensor and the place of its first NaN or infinity.
        """
        if name not in self._finite:  # several exports of one checkpoint look once
            check_finite(name, self._find(name))
            self._finite.add(name)

    def without_tied_copy(self) -> "Checkpoint":
        """The same checkpoint without an `lm_head.weight` that is byte-equal to the embedding that it is tied to.

        Raises CheckpointError when the two differ: then the model is not tied.
        """
        copy, embedding = ("lm_head.weight", "model.embed_tokens.weight")
        if copy not in self._stored or embedding not in self._stored:
            return self
        if not equal_bytes(self._stored[copy], self._stored[embedding]):
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


def open_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in that folder (one file, or an index and its shards), or that one safetensors file.

    Raises InputError naming the file at fault.
    """
    if path.is_dir():
        stored = read_safetensors_folder(path)
        return Checkpoint(path, path, stored, read_sidecar(path))
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder")
    if path.name.endswith(".index.json"):
        return Checkpoint(path, path.parent, read_safetensors_index(path), read_sidecar(path.parent))
    sidecar = read_sidecar(path.parent)
    # A file beside a sidecar that does not list it is another model.
    ours = sidecar if sidecar is not None and path.name in sidecar.files else None
    return Checkpoint(path, path.parent, read_safetensors_header(path), ours)


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The folder of the complete checkpoint that was finished last, anywhere up to three levels under `runs`.

    Raises CheckpointError when there is none.
    """
    return finished_checkpoints(runs)[0]


def finished_checkpoints(runs: Path) -> list[Path]:
    """The folders of all complete checkpoints up to three levels under `runs`, the one finished last first.

    Raises CheckpointError when there is none.
    """
    sidecars = [
        path for depth in range(4) for path in runs.glob("*/" * depth + SIDECAR_NAME) if _is_finished(runs, path)
    ]
    if not sidecars:
        raise CheckpointError(f"{runs}: no complete checkpoint under this folder; name one, or train one first")
    sidecars.sort(key=lambda path: (path.stat().st_mtime_ns, str(path)), reverse=True)
    return [path.parent for path in sidecars]


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
        return contract
    if sidecar is not None:
        return sidecar.contract
    if checkpoint.config_path is not None:
        from conform.core.checkpoint.inference import infer_checkpoint

        return infer_checkpoint(checkpoint.folder).contract
    raise CheckpointError(
        f"{checkpoint.path}: neither {SIDECAR_NAME} nor config.json beside the weights says what the model is; "
        "name its contract with --contract"
    )


def _is_finished(runs: Path, sidecar: Path) -> bool:
    # A hidden folder is a checkpoint that is still being written.
    return not any(part.startswith(".") for part in sidecar.relative_to(runs).parent.parts)
