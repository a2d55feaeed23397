import struct
import tracemalloc

import gguf
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.contract.inventory import inventory
from conform.core.errors import GGUFError
from conform.core.gguf.imatrix import ImportanceEntry, ImportanceMatrix, check_imatrix, read_imatrix, write_imatrix


def vector(*values):
    return np.array(values, np.float32)


def legacy(entries, tail=b""):
    content = struct.pack("<i", len(entries))
    for name, calls, values in entries:
        content += struct.pack("<i", len(name)) + name.encode() + struct.pack("<ii", calls, len(values))
        content += np.array(values, "<f4").tobytes()
    return content + tail


VALID = legacy([("blk.0.attn_q.weight", 4, [2, 8]), ("b", 0, [3])], struct.pack("<ii", 7, 4) + b"wiki")


def matrix(contract, **changes):
    """Complete and sound, but for the entries that are replaced (None drops one)."""
    entries = {
        spec.gguf_name: ImportanceEntry(np.full(spec.shape[-1], 2, np.float32), 4.0)
        for spec in inventory(contract.model)
        if spec.storage_class == "linear"
    }
    entries |= {f"blk.0.{role}.weight": entry for role, entry in changes.items()}
    return ImportanceMatrix({name: entry for name, entry in entries.items() if entry is not None})


def test_what_is_written_is_read_back(tmp_path):
    before = ImportanceMatrix(
        {"blk.1.ffn_up.weight": ImportanceEntry(vector(1, 2, 3), 12), "a": ImportanceEntry(vector(5), 0)},
        datasets=("shards/train",),
        chunk_count=9,
        chunk_size=512,
        provenance={"conform.contract.digest": "0" * 64},
    )
    write_imatrix(tmp_path / "i.gguf", before)
    after = read_imatrix(tmp_path / "i.gguf")
    assert (after.datasets, after.chunk_count, after.chunk_size) == (("shards/train",), 9, 512)
    assert after.provenance == before.provenance
    assert set(after.entries) == set(before.entries)
    for name, entry in before.entries.items():
        assert np.array_equal(after.entries[name].sums, entry.sums)
        assert after.entries[name].count == entry.count


def test_the_same_matrix_gives_the_same_bytes_in_any_order(tmp_path):
    a, b = ImportanceEntry(vector(1, 2), 3), ImportanceEntry(vector(4), 5)
    write_imatrix(tmp_path / "1.gguf", ImportanceMatrix({"a": a, "b": b}))
    write_imatrix(tmp_path / "2.gguf", ImportanceMatrix({"b": b, "a": a}))
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "2.gguf").read_bytes()


def test_the_layout_is_the_one_that_llama_cpp_reads(tmp_path):
    write_imatrix(tmp_path / "i.gguf", ImportanceMatrix({"t": ImportanceEntry(vector(1, 2, 3), 6)}, ("d",), 1, 512))
    reader = gguf.GGUFReader(tmp_path / "i.gguf")
    assert reader.fields["general.type"].contents() == "imatrix"
    assert reader.fields["imatrix.datasets"].contents() == ["d"]
    assert reader.fields["imatrix.chunk_size"].contents() == 512
    assert {t.name: t.shape.tolist() for t in reader.tensors} == {"t.in_sum2": [3, 1], "t.counts": [1, 1]}
    assert reader.tensors[0].data.tolist() == [[1, 2, 3]]


def test_weights_are_means_of_squares(tmp_path):
    (tmp_path / "i.dat").write_bytes(VALID)
    read = read_imatrix(tmp_path / "i.dat")
    assert read.entries["blk.0.attn_q.weight"].weights.tolist() == [0.5, 2]
    assert read.entries["b"].weights.tolist() == [3]
    assert (read.datasets, read.chunk_count) == (("wiki",), 7)


def test_tensors_of_which_nothing_was_measured_have_no_weights():
    entries = {
        "a": ImportanceEntry(vector(1, 1), 0),
        "b": ImportanceEntry(vector(0, 0), 5),
        "c": ImportanceEntry(vector(2), 2),
    }
    assert {name: weights.tolist() for name, weights in ImportanceMatrix(entries).weights().items()} == {"c": [1]}


INVALID = {
    "empty": (b"", "truncated"),
    "negative count": (struct.pack("<i", -1), "the number of entries is -1"),
    "too many entries": (struct.pack("<i", 1 << 30) + bytes(100), "claims 1073741824 entries"),
    "name too long": (struct.pack("<ii", 1, 1 << 20) + bytes(100), "has a length of 1048576"),
    "values too long": (legacy([("a", 1, [])])[:-4] + struct.pack("<i", 1 << 30), "truncated: a takes"),
    "name of control characters": (legacy([("a\x1b", 1, [1])]), "not printable"),
    "name twice": (legacy([("a", 1, [1]), ("a", 1, [1])]), "occurs twice"),
    "tail cut": (VALID[:-2], "truncated: the data set takes 4 bytes"),
    "text": (b"hello world, this is no matrix", "not an importance matrix"),
}


@pytest.mark.parametrize(("content", "message"), INVALID.values(), ids=INVALID.keys())
def test_what_cannot_be_read_is_refused_with_a_reason(tmp_path, content, message):
    (tmp_path / "i.dat").write_bytes(content)
    with pytest.raises(GGUFError, match=message):
        read_imatrix(tmp_path / "i.dat")


def test_a_model_is_no_importance_matrix(tmp_path):
    from conform.core.gguf.write import encode_header
    from conform.core.metadata import string

    (tmp_path / "m.gguf").write_bytes(encode_header({"general.type": string("model")}, [], 32))
    with pytest.raises(GGUFError, match=r"general\.type is 'model'"):
        read_imatrix(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("shape", "kind", "message"),
    [((2, 1), 0, "several experts"), ((1, 1), 1, "expected f32, found type 1"), ((1, 3), 0, "expected one number")],
)
def test_matrices_of_experts_and_other_types_are_refused(tmp_path, shape, kind, message):
    from conform.core.gguf.write import TensorEntry, encode_header
    from conform.core.metadata import string

    tensors = [TensorEntry("t.in_sum2", (1, 4), 0, 0), TensorEntry("t.counts", shape, kind, 32)]
    content = encode_header({"general.type": string("imatrix")}, tensors, 32) + bytes(64)
    (tmp_path / "i.gguf").write_bytes(content)
    with pytest.raises(GGUFError, match=message):
        read_imatrix(tmp_path / "i.gguf")


@given(st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_files_raise_nothing_but_gguf_errors(tmp_path_factory, changes):
    content = bytearray(VALID)
    for position, byte in changes:
        content[position] = byte
    path = tmp_path_factory.getbasetemp() / "fuzzed.dat"
    path.write_bytes(content)
    try:
        read_imatrix(path)
    except GGUFError as error:
        assert "fuzzed.dat" in str(error)  # noqa: PT017 either outcome is right


def findings(contract, **changes):
    return [(f.severity, f.where) for f in check_imatrix(matrix(contract, **changes), inventory(contract.model))]


def test_a_sound_matrix_has_no_findings(micro):
    assert findings(micro) == []


@pytest.mark.parametrize(
    ("entry", "severity"),
    [
        (ImportanceEntry(np.ones(255, np.float32), 1), "error"),
        (ImportanceEntry(np.full(256, np.nan, np.float32), 1), "error"),
        (ImportanceEntry(np.full(256, np.inf, np.float32), 1), "error"),
        (ImportanceEntry(np.full(256, -1, np.float32), 1), "error"),
        (ImportanceEntry(np.ones(256, np.float32), float("nan")), "error"),
        (ImportanceEntry(np.ones(256, np.float32), -1), "error"),
        (ImportanceEntry(np.zeros(256, np.float32), 1), "warning"),
        (ImportanceEntry(np.ones(256, np.float32), 0), "warning"),
    ],
)
def test_an_entry_that_is_useless_is_named(micro, entry, severity):
    assert findings(micro, attn_q=entry) == [(severity, "importance of blk.0.attn_q.weight")]


def test_missing_and_unknown_entries_are_warnings(micro):
    extra = ImportanceEntry(np.ones(256, np.float32), 1)
    assert findings(micro, attn_q=None, attn_qkv=extra) == [
        ("warning", "importance of blk.0.attn_qkv.weight"),
        ("warning", "blk.0.attn_q.weight"),
    ]


def test_a_matrix_of_another_model_is_an_error(micro):
    foreign = ImportanceMatrix({"blk.0.other.weight": ImportanceEntry(vector(1), 1)})
    assert [f.found for f in check_imatrix(foreign, inventory(micro.model))] == ["none of them"]


def test_a_small_file_of_the_older_format_needs_little_memory(tmp_path):
    (tmp_path / "i.dat").write_bytes(VALID)
    tracemalloc.start()
    read_imatrix(tmp_path / "i.dat")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20
