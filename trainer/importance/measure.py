"""Measure: the mean square of every linear layer's inputs over calibration text, which weights quantisation error.

An error e in a row of weights changes the output for input x by e·x; where the inputs are uncorrelated its mean square
is the sum over columns j of E[x_j²] e_j². E[x_j²] is what a quantizer's `importance` holds.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor, nn

from conform.contract.bounded import require_regular
from conform.contract.inventory import inventory
from conform.contract.spec import ModelSpec
from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.files.atomic import write_atomically
from conform.core.gguf.imatrix import ImportanceEntry, ImportanceMatrix
from conform.core.i2_s.ternary import stored_ternary
from conform.trainer.errors import DataError
from conform.trainer.model.model import Llama

__all__ = ["SquareSums", "accumulate", "load_model", "merge", "read_partial", "write_partial"]

_COUNT = re.compile(r"[0-9]{1,18}")
_Recorder = Callable[[nn.Module, tuple[Any, ...]], None]


@dataclass(slots=True)
class SquareSums:
    """Sums of squared inputs by GGUF name, (cols,) float64 each, over `tokens` tokens in `chunks` sequences."""

    sums: dict[str, NDArray[np.float64]]
    tokens: int = 0
    chunks: int = 0

    @classmethod
    def zeros(cls, model: ModelSpec) -> "SquareSums":
        """Nothing measured yet, for every linear layer of the model."""
        linears = (spec for spec in inventory(model) if spec.storage_class == "linear")
        return cls({spec.gguf_name: np.zeros(spec.shape[-1]) for spec in linears})

    def add(self, squares: Mapping[str, Tensor], batch: NDArray[np.int64]) -> None:
        """Count one batch, (sequences, length) token ids, with the sums from its forward pass."""
        for name, total in squares.items():
            self.sums[name] += total.cpu().numpy()
        self.tokens += batch.size
        self.chunks += len(batch)

    def matrix(self, dataset: str, chunk_size: int, provenance: Mapping[str, str]) -> ImportanceMatrix:
        """What was measured, as an imatrix file holds it."""
        entries = {
            name: ImportanceEntry(total.astype(np.float32), float(self.tokens)) for name, total in self.sums.items()
        }
        return ImportanceMatrix(entries, (dataset,), self.chunks, chunk_size, provenance)


def load_model(checkpoint: Checkpoint, spec: ModelSpec, device: torch.device) -> Llama:
    """The checkpoint's model on that device; only one tensor is read at a time.

    Raises QuantizeError naming a weight that the contract calls ternary and that is not.
    """
    with torch.device(device):
        model = Llama(spec)
    with torch.no_grad():
        linears = {each.name for each in inventory(spec) if each.storage_class == "linear"}
        for name, parameter in model.named_parameters():
            values = checkpoint.read(name)
            if spec.linear == "ternary-stored" and name in linears:
                stored_ternary(values, name)
            parameter.copy_(torch.from_numpy(values))
    return model.eval()


def accumulate(model: Llama, batches: Iterable[NDArray[np.int64]], sums: SquareSums) -> Iterator[SquareSums]:
    """Run each batch, (sequences, length) token ids, through the model; adds to `sums` and yields it after each."""
    device = next(model.parameters()).device
    with _recorded_inputs(model) as squares, torch.inference_mode():
        for batch in batches:
            # The decoder alone: the output matrix has no importance, and its logits would need most of the memory.
            model.model(torch.from_numpy(batch).to(device), torch.float32)
            sums.add(squares, batch)
            yield sums


def merge(matrices: Iterable[ImportanceMatrix]) -> ImportanceMatrix:
    """One matrix that counts all that several measured, as if one run had seen all their text.

    Raises DataError when they measured different models.
    """
    first, *others = matrices
    shapes = {name: entry.sums.shape for name, entry in first.entries.items()}
    for other in others:
        if {name: entry.sums.shape for name, entry in other.entries.items()} != shapes:
            raise DataError("these importance matrices hold different tensors; they were measured on different models")
    together = [first, *others]
    entries = {name: _added([matrix.entries[name] for matrix in together]) for name in first.entries}
    datasets = tuple(dict.fromkeys(dataset for m in together for dataset in m.datasets))
    sizes = {m.chunk_size for m in together}
    agreed = {
        key: value for key, value in first.provenance.items() if all(m.provenance.get(key) == value for m in others)
    }
    chunks = sum(m.chunk_count for m in together)
    return ImportanceMatrix(entries, datasets, chunks, sizes.pop() if len(sizes) == 1 else 0, agreed)


def write_partial(path: Path, sums: SquareSums, provenance: Mapping[str, str]) -> None:
    """Save an unfinished measurement exactly. Raises DataError when it cannot be written."""
    metadata = {**provenance, "tokens": str(sums.tokens), "chunks": str(sums.chunks)}
    try:
        write_atomically(path, save(sums.sums, metadata))
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror}") from error


def read_partial(path: Path, model: ModelSpec, provenance: Mapping[str, str]) -> SquareSums:
    """What an unfinished measurement of the same model, text and settings saved; zeros when there is none.

    Raises InputError when something stands there that cannot be read.
    """
    sums = SquareSums.zeros(model)
    if not path.exists():
        return sums
    try:
        require_regular(path)
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except SafetensorError:
        return sums
    counts = [metadata.get(key, "") for key in ("tokens", "chunks")]
    fits = _layout(found) == _layout(sums.sums) and all(_COUNT.fullmatch(count) for count in counts)
    if not fits or any(metadata.get(key) != value for key, value in provenance.items()):
        return sums
    return SquareSums(found, *map(int, counts))


def _layout(sums: Mapping[str, NDArray[Any]]) -> Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (values.shape, values.dtype) for name, values in sums.items()}


def _added(entries: Sequence[ImportanceEntry]) -> ImportanceEntry:
    sums = np.stack([entry.sums for entry in entries]).astype(np.float64).sum(axis=0)
    return ImportanceEntry(sums.astype(np.float32), sum(entry.count for entry in entries))


@contextmanager
def _recorded_inputs(model: Llama) -> Iterator[dict[str, Tensor]]:
    """While open, each forward pass puts every linear layer's sums of squared inputs here, by GGUF name."""
    squares: dict[str, Tensor] = {}
    modules = dict(model.named_modules())
    handles = [
        modules[spec.name.removesuffix(".weight")].register_forward_pre_hook(_recorder(spec.gguf_name, squares))
        for spec in inventory(model.spec)
        if spec.storage_class == "linear"
    ]
    try:
        yield squares
    finally:
        for handle in handles:
            handle.remove()


def _recorder(name: str, squares: dict[str, Tensor]) -> _Recorder:
    def record(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
        squares[name] = inputs[0].detach().flatten(0, -2).double().square().sum(dim=0)

    return record
