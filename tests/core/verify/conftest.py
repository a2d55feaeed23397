import dataclasses

import pytest

from conform.core.gguf.read import read_gguf
from conform.core.gguf.seal import TENSORS_KEY, UNKNOWN_SHA256, packed_sha256, seal, tensor_line
from conform.core.gguf.write import TensorEntry, encode_header
from conform.core.i2_s.format import LAYOUT_KEY, USUAL_LAYOUT
from conform.core.metadata import KeyValue


@pytest.fixture
def rewrite(tmp_path):
    """The bytes with keys and descriptors changed, None dropping one.

    A sealed file is sealed anew, so that the check of the digests does not hide the others; with `sealed=False` the
    digests are left as they were.
    """

    def run(content, keys=None, tensors=None, *, sealed=True):
        path = tmp_path / "source.gguf"
        path.write_bytes(content)
        file = read_gguf(path)
        metadata = {}
        for key, value in file.metadata.items():
            kind = file.key_types[key]
            metadata[key] = KeyValue(kind.kind, tuple(value) if isinstance(value, list) else value, kind.item)
        metadata = {key: value for key, value in (metadata | (keys or {})).items() if value is not None}
        entries = {
            t.name: TensorEntry(t.name, t.shape, t.ggml_type, t.offset - file.data_start) for t in file.tensors.values()
        }
        for name, change in (tensors or {}).items():
            if change is None:
                del entries[name]
            else:
                entries[name] = dataclasses.replace(entries[name], **change)
        data = content[file.data_start :]
        header = encode_header(metadata, list(entries.values()), file.alignment)
        if sealed and TENSORS_KEY in metadata:
            path.write_bytes(header + data)
            metadata = seal(metadata, lines(read_gguf(path)))
            header = encode_header(metadata, list(entries.values()), file.alignment)
        return header + data

    return run


def lines(file):
    layout = str(file.metadata.get(LAYOUT_KEY, USUAL_LAYOUT))
    return [tensor_line(t.name, t.ggml_type, t.shape, layout, sha256(file, t)) for t in file.tensors.values()]


def sha256(file, tensor):
    whole = not tensor.problem and tensor.offset + tensor.nbytes <= file.size
    return packed_sha256(file.packed(tensor.name)) if whole else UNKNOWN_SHA256
