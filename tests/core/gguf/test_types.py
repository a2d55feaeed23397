import gguf
import pytest

from conform.core.gguf.types import GGML_TYPES, I2_S, ValueType, ggml_type, tensor_nbytes

KNOWN_TO_GGUF_PY = [kind for kind in GGML_TYPES.values() if kind.id != I2_S]


@pytest.mark.parametrize("kind", KNOWN_TO_GGUF_PY, ids=lambda kind: kind.name)
def test_sizes_are_those_of_gguf_py(kind):
    theirs = gguf.GGMLQuantizationType(kind.id)
    assert theirs.name.lower() == kind.name
    assert gguf.GGML_QUANT_SIZES[theirs] == (kind.block_size, kind.block_bytes)


@pytest.mark.parametrize(
    ("name", "file_type"),
    [
        ("f32", "ALL_F32"),
        ("f16", "MOSTLY_F16"),
        ("bf16", "MOSTLY_BF16"),
        ("q8_0", "MOSTLY_Q8_0"),
        ("iq1_s", "MOSTLY_IQ1_S"),
        ("iq1_m", "MOSTLY_IQ1_M"),
        ("iq2_xxs", "MOSTLY_IQ2_XXS"),
        ("iq2_xs", "MOSTLY_IQ2_XS"),
        ("iq2_s", "MOSTLY_IQ2_M"),  # the file type IQ2_S means tensors of type iq2_xs
        ("iq3_xxs", "MOSTLY_IQ3_XXS"),
        ("iq3_s", "MOSTLY_IQ3_S"),
        ("iq4_nl", "MOSTLY_IQ4_NL"),
        ("iq4_xs", "MOSTLY_IQ4_XS"),
        ("tq1_0", "MOSTLY_TQ1_0"),
        ("tq2_0", "MOSTLY_TQ2_0"),
    ],
)
def test_file_types_are_those_of_gguf_py(name, file_type):
    (kind,) = [kind for kind in GGML_TYPES.values() if kind.name == name]
    assert kind.ftype == gguf.LlamaFileType[file_type]


def test_value_types_are_those_of_gguf_py():
    assert {kind.name: kind.value for kind in ValueType} == {kind.name: kind.value for kind in gguf.GGUFValueType}


@pytest.mark.parametrize(
    ("kind", "shape", "nbytes"),
    [
        (0, (3, 5), 60),
        (8, (3, 64), 3 * 2 * 34),
        (21, (2, 512), 2 * 2 * 110),
        (I2_S, (4, 128), 128 + 32),
        (I2_S, (5, 60), 75 + 32),
        (8, (3, 33), None),
        (I2_S, (3, 3), None),
        (9999, (32,), None),
        (0, (), None),
    ],
)
def test_sizes_of_tensors(kind, shape, nbytes):
    assert tensor_nbytes(kind, shape) == nbytes


def test_unknown_types_are_none():
    assert ggml_type(9999) is None
