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
from conform.core.gguf.seal import TENSORS_KEY, packed_sha256, seal, tensor_line
from conform.core.gguf.types import ValueType
from conform.core.gguf.write import TensorEntry, align, encode_header
from conform.core.i2_s.format import I2_S, LAYOUT_KEY, TAIL, USUAL_LAYOUT
from conform.core.metadata import KeyValue, f32, u32
from conform.core.quantizer import Packed
from conform.parity.verdict import RungName

__all__ = ["FILE_MUTANTS", "FileMutant", "write_mutant"]

# A factor, because any number may be the base of some file: 500000 is that of Llama 3.
_ROPE_BASE_TIMES = 50
_USUAL_ROPE_BASE = 10_000.0


@dataclass(slots=True)
class _Draft:
    """The GGUF file at `path` being changed: keys by name, tensors by name with shape, type and bytes."""

    path: Path
    metadata: dict[str, KeyValue]
    tensors: dict[str, tuple[tuple[int, ...], int, Packed]]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"].value)

    def count(self, name: str) -> int:
        """The value of that key of the architecture; GGUFError unless it is a whole number above 0."""
        key = f"{self.architecture}.{name}"
        value = self.metadata[key].value if key in self.metadata else None
        if not isinstance(value, int) or value < 1:
            raise GGUFError(f"{self.path}: key {key} = {value}, expected a whole number above 0 to plant a fault by")
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

    Raises GGUFError when the file cannot be read or its counts do not fit its tensors, ExportError when the mutant
    cannot be written.
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
    return _Draft(file.path, metadata, tensors)


def _write(draft: _Draft, target: Path) -> None:
    entries, offset = [], 0
    for name, (shape, kind, packed) in draft.tensors.items():
        entries.append(TensorEntry(name, shape, kind, offset))
        offset = align(offset + packed.size)
    header = encode_header(_sealed(draft), entries, 32)
    with PartialFile(target, len(header) + offset) as out:
        out.write(0, header)
        for entry, (_, _, packed) in zip(entries, draft.tensors.values(), strict=True):
            out.write(len(header) + entry.offset, packed)
        out.publish()


def _sealed(draft: _Draft) -> dict[str, KeyValue]:
    """The keys, with digests that fit again: else the seal would catch every fault, and no other check be tried."""
    if TENSORS_KEY not in draft.metadata:
        return draft.metadata
    stated = draft.metadata.get(LAYOUT_KEY)
    layout = str(stated.value) if stated else USUAL_LAYOUT
    lines = [
        tensor_line(name, kind, shape, layout, packed_sha256(packed))
        for name, (shape, kind, packed) in draft.tensors.items()
    ]
    return seal(draft.metadata, lines)


def _rows(draft: _Draft, name: str) -> tuple[Packed, Packed]:
    """The bytes of a matrix as (rows, bytes of a row), and the tail that i2_s has behind them."""
    shape, kind, packed = draft.tensors[name]
    length = packed.size - (TAIL if kind == I2_S else 0)
    return packed[:length].reshape(shape[0], -1), packed[length:]


def _heads(draft: _Draft, name: str, key: str) -> tuple[Packed, Packed]:
    """The bytes of a matrix as (heads, pairs of rows, 2, bytes of a row), and the tail that i2_s has behind them."""
    rows, tail = _rows(draft, name)
    heads = draft.count(key)
    if rows.shape[0] % (2 * heads):
        raise GGUFError(f"{draft.path}: {name}: {rows.shape[0]} rows are not {heads} heads of whole pairs of rows")
    return rows.reshape(heads, -1, 2, rows.shape[1]), tail


def _unpermute_qk(draft: _Draft) -> bool:
    if draft.architecture != "llama":
        return False
    keys = dict.fromkeys(draft.named("attn_q"), "attention.head_count")
    keys |= dict.fromkeys(draft.named("attn_k"), "attention.head_count_kv")
    for name, key in keys.items():
        heads, tail = _heads(draft, name, key)
        draft.replace(name, np.concatenate([heads.swapaxes(1, 2).reshape(-1), tail]))
    return bool(keys)


def _swap_gate_and_up(draft: _Draft) -> bool:
    pairs = {gate: gate.replace("ffn_gate", "ffn_up") for gate in draft.named("ffn_gate")}
    pairs = {gate: up for gate, up in pairs.items() if up in draft.tensors}
    for gate, up in pairs.items():
        draft.tensors[gate], draft.tensors[up] = draft.tensors[up], draft.tensors[gate]
    return bool(pairs)


def _roll_kv_heads(draft: _Draft) -> bool:
    names = draft.named("attn_v")
    for name in names:
        heads, tail = _heads(draft, name, "attention.head_count_kv")
        draft.replace(name, np.concatenate([np.roll(heads, 1, axis=0).reshape(-1), tail]))
    return bool(names) and draft.count("attention.head_count_kv") > 1


def _change_rope_base(draft: _Draft) -> bool:
    key = f"{draft.architecture}.rope.freq_base"
    base = draft.metadata[key].value if key in draft.metadata else _USUAL_ROPE_BASE
    draft.metadata[key] = f32(_ROPE_BASE_TIMES * (base if isinstance(base, float) else _USUAL_ROPE_BASE))
    return True


def _drop_last_layer(draft: _Draft) -> bool:
    last = draft.count("block_count") - 1
    draft.tensors = {name: t for name, t in draft.tensors.items() if not name.startswith(f"blk.{last}.")}
    draft.metadata[f"{draft.architecture}.block_count"] = u32(last)
    return last > 0


def _zero_a_tensor(draft: _Draft) -> bool:
    names = draft.named("attn_output")
    for name in names[-1:]:
        draft.replace(name, np.zeros_like(draft.tensors[name][2]))
    return bool(names)


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
    FileMutant("rope-base", f"the rope base times {_ROPE_BASE_TIMES}", "file", _change_rope_base),
    FileMutant("last-layer-dropped", "the last layer left out, and the count with it", "file", _drop_last_layer),
    FileMutant("tensor-zeroed", "attn_output of the last layer all zero bytes", "weights", _zero_a_tensor),
    FileMutant("i2_s-lanes", "the four codes of each byte in the opposite order", "weights", _reverse_lanes),
    FileMutant("norms-off-by-one", "1 added to the weights of every norm", "weights", _norms_off_by_one),
    FileMutant("scores-forgotten", "the scores of all pieces set to 0", "tokens", _forget_scores),
)
