"""Weights: where the reference takes them from: a decoded GGUF file, or the checkpoint that it was exported from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from conform.contract.inventory import Role, TensorSpec, inventory
from conform.contract.spec import Contract
from conform.core.catalog import Catalog
from conform.core.checkpoint.checkpoint import Checkpoint
from conform.core.codec import Codec
from conform.core.errors import GGUFError
from conform.core.gguf.read import GGUFFile
from conform.core.i2_s.format import I2_S, LAYOUT_KEY, USUAL_LAYOUT, variant_of_layout
from conform.core.i2_s.ternary import stored_ternary, ternarise
from conform.core.quantizer import Float32
from conform.parity.reference.linear import Dense, Linear, Ternary

__all__ = ["CheckpointWeights", "FileWeights", "Weights"]


class Weights(Protocol):
    """The weights of one model, each read when it is asked for and kept by nobody."""

    def embedding(self, ids: Sequence[int]) -> Tensor:
        """Rows of the token embedding, (len(ids), hidden) float32."""
        ...

    def norm(self, role: Role, layer: int | None = None) -> Tensor | None:
        """A norm's weight; None for an optional one that the model lacks."""
        ...

    def linear(self, role: Role, layer: int) -> Linear:
        """A projection of a block."""
        ...

    def output(self) -> Linear:
        """The output matrix, which may be the token embedding."""
        ...


@dataclass(frozen=True, slots=True)
class FileWeights:
    """The weights of a GGUF file, decoded by the plugins' decoders."""

    file: GGUFFile
    catalog: Catalog

    def embedding(self, ids: Sequence[int]) -> Tensor:
        """See Weights."""
        info = self.file.tensors["token_embd.weight"]
        if info.ggml_type == I2_S:  # its blocks run across rows
            return torch.from_numpy(self.decoded("token_embd.weight"))[list(ids)]
        rows = self.file.packed("token_embd.weight").reshape(info.shape[0], -1)[np.asarray(ids, dtype=np.int64)]
        shape = (len(ids), info.shape[1])
        return torch.from_numpy(self._decoder(info.ggml_type).unpack(info.name, rows.reshape(-1), shape))

    def norm(self, role: Role, layer: int | None = None) -> Tensor | None:
        """See Weights."""
        name = f"{role}.weight" if layer is None else f"blk.{layer}.{role}.weight"
        return torch.from_numpy(self.decoded(name)) if name in self.file.tensors else None

    def linear(self, role: Role, layer: int) -> Linear:
        """See Weights."""
        return self._linear(f"blk.{layer}.{role}.weight")

    def output(self) -> Linear:
        """See Weights: architecture llama has a matrix of its own or none, the others always the embedding."""
        own = "output.weight" in self.file.tensors and self.file.metadata["general.architecture"] == "llama"
        if own:
            return self._linear("output.weight")
        return Dense(torch.from_numpy(self.decoded("token_embd.weight")))

    def decoded(self, name: str) -> Float32:
        """The float32 values of one tensor.

        Raises GGUFError when there is no such tensor, QuantizeError for bytes that mean nothing, and PluginError when
        nothing decodes its type, or what does is broken.
        """
        info = self.file.tensors.get(name)
        if info is None:
            raise GGUFError(f"{self.file.path}: tensor {name} is missing")
        return self._decoder(info.ggml_type).unpack(name, self.file.packed(name), info.shape)

    def _decoder(self, type_id: int) -> Codec:
        # i2_s alone is written in several layouts under one type id; a file that does not say which has the usual one.
        layout = str(self.file.metadata.get(LAYOUT_KEY, USUAL_LAYOUT))
        return self.catalog.decoder(type_id, variant_of_layout(layout) if type_id == I2_S else "")

    def _linear(self, name: str) -> Linear:
        values = self.decoded(name)
        if self.file.tensors[name].ggml_type != I2_S:
            return Dense(torch.from_numpy(values))
        # All that i2_s decodes to is -scale, 0 and scale.
        return Ternary(torch.from_numpy(np.sign(values)), float(np.abs(values).max(initial=0.0)))


class CheckpointWeights:
    """The weights of a checkpoint; those of a ternary contract's linears as training uses them."""

    def __init__(self, checkpoint: Checkpoint, contract: Contract) -> None:
        self._checkpoint = checkpoint
        self._kind = contract.model.linear
        self._specs: dict[tuple[Role, int | None], TensorSpec] = {
            (spec.role, spec.layer): spec for spec in inventory(contract.model)
        }

    def embedding(self, ids: Sequence[int]) -> Tensor:
        """See Weights."""
        return self._read("token_embd")[list(ids)]

    def norm(self, role: Role, layer: int | None = None) -> Tensor | None:
        """See Weights."""
        return self._read(role, layer) if (role, layer) in self._specs else None

    def linear(self, role: Role, layer: int) -> Linear:
        """See Weights."""
        if self._kind == "dense":
            return Dense(self._read(role, layer))
        name = self._specs[role, layer].name
        values = self._checkpoint.read(name)
        codes, scale = ternarise(values) if self._kind == "ternary" else stored_ternary(values, name)
        return Ternary(torch.from_numpy(codes.astype(np.float32)), float(scale))

    def output(self) -> Linear:
        """See Weights."""
        return Dense(self._read("output" if ("output", None) in self._specs else "token_embd"))

    def _read(self, role: Role, layer: int | None = None) -> Tensor:
        return torch.from_numpy(np.array(self._checkpoint.read(self._specs[role, layer].name)))
