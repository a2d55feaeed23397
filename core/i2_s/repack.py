"""Repack: an i2_s file in another byte layout, value for value the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from conform.contract.inventory import inventory
from conform.core.checkpoint.checkpoint import Checkpoint, contract_of
from conform.core.errors import ExportError, GGUFError, PlanError
from conform.core.export.transform import transform_of
from conform.core.files.partial import PartialFile
from conform.core.gguf.read import GGUFFile, read_gguf
from conform.core.gguf.seal import UNKNOWN_SHA256, packed_sha256, seal, tensor_line
from conform.core.gguf.write import TensorEntry, encode_header
from conform.core.i2_s.format import I2_S, LAYOUT_KEY, LAYOUTS, TAIL, I2SLayout, layouts_that_fit
from conform.core.i2_s.layout import layout_evidence, pack_codes, unpack_codes
from conform.core.i2_s.ternary import ternarise
from conform.core.metadata import KeyValue, string
from conform.core.quantizer import Packed
from conform.core.verify.seal import check_seal

__all__ = ["RepackReport", "SourceLayout", "find_layout", "repack"]

_CHUNK = 8 << 20
# Chance alone reaches six standard deviations once in a billion files.
_ENOUGH_EVIDENCE = 6.0
_ENOUGH_MARGIN = 4.0


@dataclass(frozen=True, slots=True)
class SourceLayout:
    """The layout of a file, and how it is known."""

    layout: I2SLayout
    known_by: Literal["the user", "the file's key", "the checkpoint", "statistics"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RepackReport:
    """What was written; so many i2_s tensors hold the same values as before in the new layout."""

    path: Path
    source: SourceLayout
    layout: I2SLayout
    tensors: int
    size: int


def find_layout(
    file: GGUFFile, asked: I2SLayout | None, checkpoint: Checkpoint | None, contract: str | None = None
) -> SourceLayout:
    """The layout of the file's i2_s tensors: as asked, as its key states, as a checkpoint proves, as statistics show.

    `contract` names the checkpoint's contract where the checkpoint does not state it.
    Raises PlanError without an i2_s tensor, when nothing shows its layout, and when the key contradicts what is asked.
    """
    _i2_s(file)
    stated = file.metadata.get(LAYOUT_KEY)
    if stated is not None and stated not in LAYOUTS:
        raise GGUFError(f"{file.path}: {LAYOUT_KEY} = {stated!r}: expected one of {', '.join(LAYOUTS)}")
    if asked is not None and stated not in (None, asked):
        raise PlanError(f"{file.path}: --from {asked} contradicts the file, whose {LAYOUT_KEY} is {stated}")
    if asked is not None:
        return SourceLayout(asked, "the user")
    for layout in LAYOUTS:
        if layout == stated:
            return SourceLayout(layout, "the file's key")
    return _prove(file, checkpoint, contract) if checkpoint is not None else _infer(file)


def repack(file: GGUFFile, source: SourceLayout, layout: I2SLayout, target: Path) -> RepackReport:
    """Write the file anew with its i2_s tensors in `layout`, then read both again and compare every code and scale.

    Raises GGUFError for a damaged source, PlanError for a shape that the layout cannot hold, ExportError for the rest.
    """
    tensors = _i2_s(file)
    for name in tensors:
        shape = file.tensors[name].shape
        for wanted in (source.layout, layout):
            if wanted not in layouts_that_fit(shape):
                raise PlanError(f"{file.path}: {name} of shape {shape} cannot be stored in the i2_s layout {wanted}")
    header = _header(file, layout, {})
    size = len(header) + file.size - file.data_start
    with PartialFile(target, size) as partial:
        for name, info in file.tensors.items():
            offset = len(header) + info.offset - file.data_start
            pieces = (
                _pieces(file, name) if name not in tensors else iter([_repacked(file, name, source.layout, layout)])
            )
            for piece in pieces:
                partial.write(offset, piece)
                offset += piece.size
        partial.write(0, header)
        written = read_gguf(partial.path)
        partial.write(0, _header(file, layout, {name: packed_sha256(written.packed(name)) for name in file.tensors}))
        partial.sync()
        _compare(file, source.layout, read_gguf(partial.path), layout)
        _refuse_broken_seal(file)
        partial.publish()
    return RepackReport(target, source, layout, len(tensors), size)


def _i2_s(file: GGUFFile) -> tuple[str, ...]:
    names = tuple(name for name, tensor in file.tensors.items() if tensor.ggml_type == I2_S)
    if not names:
        raise PlanError(f"{file.path}: has no i2_s tensor, so there is nothing to repack")
    return names


def _infer(file: GGUFFile) -> SourceLayout:
    evidence = layout_evidence(file)
    ranked = sorted(evidence.items(), key=lambda item: -item[1])
    scores = ", ".join(f"{layout} {score:.1f}" for layout, score in ranked)
    detail = f"channels correlate, in standard deviations above chance: {scores}"
    if len(ranked) == 1:
        return SourceLayout(ranked[0][0], "statistics", "no other layout holds these shapes")
    if not ranked or ranked[0][1] < _ENOUGH_EVIDENCE or ranked[0][1] - ranked[1][1] < _ENOUGH_MARGIN:
        raise PlanError(
            f"{file.path}: nothing in the file shows its i2_s layout ({detail}); state it with --from "
            f"{'|'.join(LAYOUTS)}, or name the checkpoint that it was made from with --checkpoint"
        )
    return SourceLayout(ranked[0][0], "statistics", detail)


def _prove(file: GGUFFile, checkpoint: Checkpoint, contract: str | None) -> SourceLayout:
    """The layout in which the file's first matrix has the codes that the checkpoint implies."""
    model = contract_of(checkpoint, contract).model
    for spec in inventory(model):
        info = file.tensors.get(spec.gguf_name)
        if info is None or info.ggml_type != I2_S or info.shape != spec.shape:
            continue
        values = transform_of(model, spec).apply(checkpoint.read(spec.name))
        expected = (ternarise(values)[0] + 1).astype(np.uint8)
        found = file.packed(spec.gguf_name)[:-TAIL]
        fitting = [layout for layout in LAYOUTS if layout in layouts_that_fit(info.shape)]
        matching = [layout for layout in fitting if np.array_equal(unpack_codes(found, layout, info.shape), expected)]
        if len(matching) == 1:
            return SourceLayout(matching[0], "the checkpoint", f"{spec.gguf_name} has its codes in this layout alone")
    raise PlanError(
        f"{file.path}: no i2_s tensor has the codes of {checkpoint.path} in any layout; state the layout with --from"
    )


def _header(file: GGUFFile, layout: I2SLayout, sha256: Mapping[str, str]) -> bytes:
    metadata = {key: _key_value(file, key) for key in file.metadata} | {LAYOUT_KEY: string(layout)}
    entries = [
        TensorEntry(tensor.name, tensor.shape, tensor.ggml_type, tensor.offset - file.data_start)
        for tensor in file.tensors.values()
    ]
    lines = [
        tensor_line(entry.name, entry.ggml_type, entry.shape, layout, sha256.get(entry.name, UNKNOWN_SHA256))
        for entry in entries
    ]
    return encode_header(seal(metadata, lines), entries, file.alignment)


def _refuse_broken_seal(file: GGUFFile) -> None:
    # New digests over a file that was changed would make it look whole.
    for finding in check_seal(file):
        raise GGUFError(f"{file.path}: is not what was exported, and would be sealed anew: {finding}")


def _key_value(file: GGUFFile, key: str) -> KeyValue:
    value, kind = (file.metadata[key], file.key_types[key])
    items: Any = tuple(value) if isinstance(value, list) else value
    return KeyValue(kind.kind, items, kind.item)


def _pieces(file: GGUFFile, name: str) -> Iterator[Packed]:
    packed = file.packed(name)
    for start in range(0, packed.size, _CHUNK):
        yield packed[start : start + _CHUNK]


def _repacked(file: GGUFFile, name: str, source: I2SLayout, layout: I2SLayout) -> Packed:
    before = file.packed(name)  # which refuses a size that the file does not hold
    packed = np.zeros(before.size, np.uint8)
    packed[:-TAIL] = pack_codes(_codes(file, name, source), layout)
    # What follows the scale is undefined in files of the C quantizer; zeros are what converters write.
    packed[-TAIL : 4 - TAIL] = before[-TAIL : 4 - TAIL]
    return packed


def _codes(file: GGUFFile, name: str, layout: I2SLayout) -> Packed:
    codes = unpack_codes(file.packed(name)[:-TAIL], layout, file.tensors[name].shape)
    if (codes == 3).any():
        raise GGUFError(f"{file.path}: {name}: holds code 3, which means nothing; the file is damaged")
    return codes


def _compare(old: GGUFFile, old_layout: I2SLayout, new: GGUFFile, new_layout: I2SLayout) -> None:
    for name in old.tensors:
        before, after = (old.packed(name), new.packed(name))
        if old.tensors[name].ggml_type == I2_S:
            same = np.array_equal(_codes(old, name, old_layout), _codes(new, name, new_layout))
            same = same and np.array_equal(before[-TAIL : 4 - TAIL], after[-TAIL : 4 - TAIL])
        else:
            same = np.array_equal(before, after)
        if not same:
            raise ExportError(f"{name}: reads back differently from what was written; the disk or the memory is faulty")
