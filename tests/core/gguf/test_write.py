import gguf
import pytest

from conform.core.errors import ExportError
from conform.core.gguf.types import ValueType
from conform.core.gguf.write import TensorEntry, align, encode_header
from conform.core.metadata import KeyValue, f32_array, string, string_array, u32

GOLDEN = bytes.fromhex(
    "47475546 03000000 0100000000000000 0100000000000000"  # magic, version, tensors, keys
    "0100000000000000 6b 04000000 07000000"  # k = u32 7
    "0100000000000000 74 02000000 0300000000000000 0200000000000000 01000000 4000000000000000"  # t, f16, at 64
)


def test_golden_header():
    header = encode_header({"k": u32(7)}, [TensorEntry("t", (2, 3), 1, 64)], 32)
    assert header == GOLDEN.ljust(align(len(GOLDEN)), b"\0")


def test_gguf_pys_reader_agrees(tmp_path):
    metadata = {"general.architecture": string("llama"), "a": string_array(["x", "é"]), "b": f32_array([0.5, 1])}
    header = encode_header(metadata, [TensorEntry("t", (4, 32), 8, 0)], 32)
    (tmp_path / "x.gguf").write_bytes(header + bytes(4 * 34 + 24))
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert reader.fields["a"].contents() == ["x", "é"]
    assert reader.fields["b"].contents() == [0.5, 1]
    assert reader.tensors[0].shape.tolist() == [32, 4]
    assert reader.tensors[0].data_offset == len(header)


@pytest.mark.parametrize(
    "value",
    [
        u32(-1),
        u32(1 << 32),
        KeyValue(ValueType.UINT8, 256),
        KeyValue(ValueType.FLOAT32, 1e300),
        KeyValue(ValueType.INT32, "x"),
        KeyValue(ValueType.ARRAY, (1, -1), ValueType.UINT32),
        string("\ud800"),
    ],
)
def test_a_value_that_does_not_fit_its_type_is_named(value):
    with pytest.raises(ExportError, match=r"^some\.key: "):
        encode_header({"some.key": value}, [], 32)
