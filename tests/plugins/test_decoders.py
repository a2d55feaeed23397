import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from conform.core.errors import PluginError, QuantizeError
from conform.plugins import decoders
from conform.plugins.host import load_registry

READ = [Kind.Q4_0, Kind.Q4_1, Kind.Q5_0, Kind.Q5_1, Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.MXFP4]


def packed(kind, blocks):
    _, length = gguf.GGML_QUANT_SIZES[kind]
    # The high bytes of half-precision scales stay below those of infinity.
    return np.random.default_rng(int(kind)).integers(0, 0x70, (blocks, length), np.uint8)


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.name)
def test_a_type_that_is_not_written_is_read_as_gguf_reads_it(kind, monkeypatch):
    monkeypatch.setattr(decoders, "_AT_ONCE", 1024)  # several pieces, the last of them short
    codec = load_registry().decoder(int(kind))
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    blocks = packed(kind, 39)
    values = codec.unpack("blk.0.ffn_up.weight", blocks.reshape(-1), (13, 3 * block))
    np.testing.assert_array_equal(values, gguf.dequantize(blocks, kind).reshape(13, 3 * block))


def test_what_is_only_read_is_not_offered_and_not_written():
    registry = load_registry()
    assert "q4_1" not in registry.quantizers
    with pytest.raises(PluginError, match="no such quantizer"):
        registry.codec("q4_1")
    with pytest.raises(QuantizeError, match=r"x: q4_1 can be read but not written"):
        registry.decoder(int(Kind.Q4_1)).pack("x", np.zeros((2, 32), np.float32))


def test_rows_that_are_not_whole_blocks_and_bytes_of_another_size_are_refused():
    codec = load_registry().decoder(int(Kind.Q4_K))
    with pytest.raises(QuantizeError, match="not a multiple of 256"):
        codec.nbytes((2, 128))
    with pytest.raises(QuantizeError, match="x: q4_k decodes 144 bytes"):
        codec.unpack("x", np.zeros(143, np.uint8), (256,))


def test_a_type_that_nobody_knows_has_no_decoder():
    with pytest.raises(PluginError, match="GGML type 24"):
        load_registry().decoder(24)
