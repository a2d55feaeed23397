"""Verify seal: the digests that a file of conform's carries, against the bytes that stand in it."""

from collections.abc import Callable, Iterator, Mapping

from conform.contract.finding import Finding
from conform.core.gguf.read import GGUFFile, TensorInfo
from conform.core.gguf.seal import (
    PROVENANCE_KEY,
    TENSORS_KEY,
    VOCABULARY_KEY,
    packed_sha256,
    provenance_digest,
    tensor_line,
    vocabulary_digest,
)
from conform.core.i2_s.format import LAYOUT_KEY, USUAL_LAYOUT

__all__ = ["check_seal"]

_GROUPS: Mapping[str, tuple[Callable[[Mapping[str, str]], str], str]] = {
    VOCABULARY_KEY: (vocabulary_digest, "a tokenizer.ggml.* key was changed, added or removed after the export"),
    PROVENANCE_KEY: (provenance_digest, "a conform.* key was changed, added or removed after the export"),
}


def check_seal(file: GGUFFile) -> Iterator[Finding]:
    """Every digest that is missing or wrong, where any `conform.*` key says that the file is conform's.

    A tensor is read in pieces.
    """
    if not any(key.startswith("conform.") for key in file.metadata):
        return
    for key, (digest, hint) in _GROUPS.items():
        stated = file.metadata.get(key)
        if stated != (actual := digest(file.key_digests)):
            yield Finding(
                "error", key, f"sha256 {actual}", "no such key" if stated is None else f"{stated!r:.80}", hint
            )
    yield from _check_tensors(file)


def _check_tensors(file: GGUFFile) -> Iterator[Finding]:
    lines = file.metadata.get(TENSORS_KEY)
    if not isinstance(lines, list):
        found = "no such key" if lines is None else str(file.key_types[TENSORS_KEY])
        yield Finding("error", TENSORS_KEY, "the sha256 of every tensor", found)
        return
    if len(lines) != len(file.tensors):
        yield Finding("error", TENSORS_KEY, f"{len(file.tensors)} lines, one a tensor", f"{len(lines)} lines")
    for tensor, line in zip(file.tensors.values(), lines, strict=False):
        if not tensor.problem and tensor.offset + tensor.nbytes <= file.size:  # or it is reported already
            yield from _check_tensor(file, tensor, str(line))


def _check_tensor(file: GGUFFile, tensor: TensorInfo, stated: str) -> Iterator[Finding]:
    layout = str(file.metadata.get(LAYOUT_KEY, USUAL_LAYOUT))
    sha256 = packed_sha256(file.packed(tensor.name))
    actual = tensor_line(tensor.name, tensor.ggml_type, tensor.shape, layout, sha256)
    if stated != actual:
        hint = "the tensor, its name, type, shape or layout was changed after the export"
        yield Finding("error", tensor.name, stated or "a digest", actual, hint)
