"""Mutants: faults planted into a GGUF file, each of which a verdict must catch.

Rows of packed bytes are moved, never decoded, so that one mutation serves every tensor type.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conform.core.errors import GGUFError
from conform.core.files.partial import PartialFile
from conform.core.gguf.read import GGUFFile
from conform.core.gguf.types import I2_S, ValueType
from conform.core.gguf.write import TensorEntry, align, encode_header
from conform.core.metadata import KeyValue, f32, u32
from conform.core.quantizer import Packed
from conform.parity.verdict import RungName

__all__ = ["FILE_MUTANTS", "FileMutant", "write_mutant"]

_I2_S_TAIL = 32
_NEW_ROPE_BASE = 500_000.0


@dataclass(slots=True)
class _Draft:
    """A GGUF file being changed: keys by name, tensors by name with shape, type and bytes."""

    metadata: dict[str, KeyValue]
    tensors: dict[str, tuple[tuple[int, ...], int, Packed]]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"].value)

    def number(self, name: str) -> int:
        value = self.metadata[f"{self.architecture}.{name}"].value
        assert isinstance(value, int)
        return value

    def named(self, role: str) -> list[str]:
        """The tensors of that role, in every layer."""
        return [name for name in self.tensors if name.endswith(f".{role}.weight")]

    def replace(self, name: str, packed: Packed) -> None:
        shape, kind, _ = self.tensors[name]
        self.tensors[name] = (shape, kind, packed)


@dataclass(frozen=True, slots=True)
class FileMutant:
    """A planted fault: what it is, the rung that must fail for it, and how it is made."""

    name: str
    what: str
    breaks: RungName
    plant: Callable[[_Draft], bool]
    """Changes the draft; False when this file has nothing to plant it in."""


def write_mutant(mutant: FileMutant, file: GGUFFile, target: Path) -> bool:
    """Write the file with the fault in it to `target`; False, and nothing written, when the fault does not apply.

    Raises GGUFError when the file cannot be read, ExportError when the mutant cannot be written.
    """
    draft = _draft(file)
    if not mutant.plant(draft):
        return False
    _write(draft, target)
    return True


def _draft(file: GGUFFile) -> _Draft:
    metadata = {}
    for key, value in file.metadata.items():
        kind = file.key_types[key]
        metadata[key] = KeyValue(kind.kind, tuple(value) if isinstance(value, list) else value, kind.item)  # type: ignore[arg-type]  # a list holds one type
    tensors = {name: (info.shape, info.ggml_type, np.array(file.packed(name))) for name, info in file.tensors.items()}
    if "general.architecture" not in metadata or metadata["general.architecture"].kind is not ValueType.STRING:
        raise GGUFError(f"{file.path}: general.architecture is missing")
    return _Draft(metadata, tensors)


def _write(draft: _Draft, target: Path) -> None:
    entries, offset = [], 0
    for name, (shape, kind, packed) in draft.tensors.items():
        entries.append(TensorEntry(name, shape, kind, offset))
        offset = align(offset + packed.size)
    header = encode_header(draft.metadata, entries, 32)
    with PartialFile(target, len(header) + offset) as out:
        out.write(0, header)
        for entry, (_, _, packed) in zip(entries, draft.tensors.values(), strict=True):
            out.write(len(header) + entry.offset, packed)
        out.publish()


def _rows(draft: _Draft, name: str) -> tuple[Packed, Packed]:
    """The bytes of a matrix as (rows, bytes of a row), and the tail that i2_s has behind them."""
    shape, kind, packed = draft.tensors[name]
    length = packed.size - (_I2_S_TAIL if kind == I2_S else 0)
    return packed[:length].reshape(shape[0], -1), packed[length:]


def _unpermute_qk(draft: _Draft) -> bool:
    if draft.architecture != "llama":
        return False
    for role, key in (("attn_q", "attention.head_count"), ("attn_k", "attention.head_count_kv")):
        for name in draft.named(role):
            rows, tail = _rows(draft, name)
            halves = rows.reshape(draft.number(key), -1, 2, rows.shape[1]).swapaxes(1, 2)
            draft.replace(name, np.concatenate([halves.reshape(-1), tail]))
    return True


def _swap_gate_and_up(draft: _Draft) -> bool:
    for gate in draft.named("ffn_gate"):
        up = gate.replace("ffn_gate", "ffn_up")
        draft.tensors[gate], draft.tensors[up] = draft.tensors[up], draft.tensors[gate]
    return True


def _roll_kv_heads(draft: _Draft) -> bool:
    heads = draft.number("attention.head_count_kv")
    for name in draft.named("attn_v"):
        rows, tail = _rows(draft, name)
        rolled = np.roll(rows.reshape(heads, -1, rows.shape[1]), 1, axis=0)
        draft.replace(name, np.concatenate([rolled.reshape(-1), tail]))
    return heads > 1


def _change_rope_base(draft: _Draft) -> bool:
    draft.metadata[f"{draft.architecture}.rope.freq_base"] = f32(_NEW_ROPE_BASE)
    return True


def _drop_last_layer(draft: _Draft) -> bool:
    last = draft.number("block_count") - 1
    draft.tensors = {name: t for name, t in draft.tensors.items() if not name.startswith(f"blk.{last}.")}
    draft.metadata[f"{draft.architecture}.block_count"] = u32(last)
    return last > 0


def _zero_a_tensor(draft: _Draft) -> bool:
    name = draft.named("attn_output")[-1]
    draft.replace(name, np.zeros_like(draft.tensors[name][2]))
    return True


def _reverse_lanes(draft: _Draft) -> bool:
    """The four codes of each byte of i2_s in the opposite order: what a reader of tq2_0's order would see."""
    names = [name for name, (_, kind, _) in draft.tensors.items() if kind == I2_S]
    for name in names:
        rows, tail = _rows(draft, name)
        reversed_codes = rows << 6 | (rows & 0x0C) << 2 | (rows & 0x30) >> 2 | rows >> 6
        draft.replace(name, np.concatenate([reversed_codes.reshape(-1), tail]))
    return bool(names)


def _norms_off_by_one(draft: _Draft) -> bool:
    names = [name for name, (_, kind, _) in draft.tensors.items() if name.endswith("norm.weight") and kind == 0]
    for name in names:
        values = draft.tensors[name][2].view("<f4") + np.float32(1)
        draft.replace(name, values.view(np.uint8))
    return bool(names)


def _forget_scores(draft: _Draft) -> bool:
    scores = draft.metadata.get("tokenizer.ggml.scores")
    if scores is None or not isinstance(scores.value, tuple):
        return False
    draft.metadata["tokenizer.ggml.scores"] = dataclasses.replace(scores, value=(0.0,) * len(scores.value))
    return True


FILE_MUTANTS: Sequence[FileMutant] = (
    FileMutant("qk-unpermuted", "rotary rows left as the checkpoint has them", "weights", _unpermute_qk),
    FileMutant("gate-up-swapped", "ffn_gate and ffn_up exchanged in every layer", "weights", _swap_gate_and_up),
    FileMutant("kv-heads-rolled", "the values of each kv head given to the next", "weights", _roll_kv_heads),
    FileMutant("rope-base", f"rope base {_NEW_ROPE_BASE:g}", "file", _change_rope_base),
    FileMutant("last-layer-dropped", "the last layer left out, and the count with it", "file", _drop_last_layer),
    FileMutant("tensor-zeroed", "attn_output of the last layer all zero bytes", "weights", _zero_a_tensor),
    FileMutant("i2_s-lanes", "the four codes of each byte in the opposite order", "weights", _reverse_lanes),
    FileMutant("norms-off-by-one", "1 added to the weights of every norm", "weights", _norms_off_by_one),
    FileMutant("scores-forgotten", "the scores of all pieces set to 0", "tokens", _forget_scores),
)
