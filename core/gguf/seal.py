"""Seal: the digests by which a GGUF file shows that it still is what was written; docs/reference/formats.md has them.

    conform.tensors.sha256      one line a tensor, in the file's order: SHA256  NAME TYPE SHAPE
    conform.vocabulary.sha256   of the lines `SHA256  KEY` of every tokenizer.ggml.* entry, sorted by key
    conform.provenance.sha256   of the same lines of every other conform.* entry, the two digests above among them

The SHA256 of an entry is that of its bytes in the header: key, type and value. A digest has the same length whatever it
is, so a header can be planned before it is known.
"""

import hashlib
from collections.abc import Mapping, Sequence

from conform.core.errors import PluginError
from conform.core.gguf.types import ggml_type
from conform.core.gguf.write import encode_entry
from conform.core.i2_s.format import I2_S
from conform.core.metadata import KeyValue, string, string_array
from conform.core.quantizer import Packed

__all__ = [
    "PROVENANCE_KEY",
    "SEAL_KEYS",
    "TENSORS_KEY",
    "UNKNOWN_SHA256",
    "VOCABULARY_KEY",
    "packed_sha256",
    "provenance_digest",
    "refuse_seal_keys",
    "seal",
    "tensor_line",
    "vocabulary_digest",
]

TENSORS_KEY = "conform.tensors.sha256"
VOCABULARY_KEY = "conform.vocabulary.sha256"
PROVENANCE_KEY = "conform.provenance.sha256"
SEAL_KEYS = (TENSORS_KEY, VOCABULARY_KEY, PROVENANCE_KEY)

UNKNOWN_SHA256 = "0" * 64
"""What stands in for a digest that is not known yet."""

_CHUNK = 8 << 20


def packed_sha256(packed: Packed) -> str:
    """sha256 of a tensor's bytes, which are read in pieces."""
    digest = hashlib.sha256()
    for start in range(0, packed.size, _CHUNK):
        digest.update(packed[start : start + _CHUNK].data)
    return digest.hexdigest()


def tensor_line(name: str, type_id: int, shape: Sequence[int], i2_s_layout: str, sha256: str) -> str:
    """What the file says of one tensor; `i2_s_layout` counts for an i2_s tensor only."""
    kind = ggml_type(type_id)
    stored = kind.name if kind else str(type_id)
    if type_id == I2_S:
        stored += f"/{i2_s_layout}"
    return f"{sha256}  {name} {stored} {'x'.join(map(str, shape))}"


def seal(metadata: Mapping[str, KeyValue], tensors: Sequence[str]) -> dict[str, KeyValue]:
    """The metadata with the seal behind it, an older seal left out; `tensors` has the line of each tensor in order."""
    sealed = {key: value for key, value in metadata.items() if key not in SEAL_KEYS}
    sealed[TENSORS_KEY] = string_array(tensors)
    entries = {key: hashlib.sha256(encode_entry(key, value)).hexdigest() for key, value in sealed.items()}
    sealed[VOCABULARY_KEY] = string(vocabulary_digest(entries))
    entries[VOCABULARY_KEY] = hashlib.sha256(encode_entry(VOCABULARY_KEY, sealed[VOCABULARY_KEY])).hexdigest()
    sealed[PROVENANCE_KEY] = string(provenance_digest(entries))
    return sealed


def refuse_seal_keys(metadata: Mapping[str, KeyValue]) -> None:
    """Pass when no metadata writer has set a key of the seal. Raises PluginError naming the key."""
    for key in SEAL_KEYS:
        if key in metadata:
            raise PluginError(f"a metadata writer sets {key}, which conform computes itself; leave it out")


def vocabulary_digest(entries: Mapping[str, str]) -> str:
    """The digest of the tokenizer's keys; `entries` maps every key to the sha256 of its entry."""
    return _digest({key: sha256 for key, sha256 in entries.items() if key.startswith("tokenizer.ggml.")})


def provenance_digest(entries: Mapping[str, str]) -> str:
    """The digest of the `conform.*` keys but itself; `entries` maps every key to the sha256 of its entry."""
    return _digest({k: sha256 for k, sha256 in entries.items() if k.startswith("conform.") and k != PROVENANCE_KEY})


def _digest(entries: Mapping[str, str]) -> str:
    lines = "".join(f"{entries[key]}  {key}\n" for key in sorted(entries))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()
