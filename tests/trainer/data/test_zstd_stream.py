import io
import random
import tracemalloc

import pytest

from conform.trainer.data.zstd_stream import ZstdStream

zstandard = pytest.importorskip("zstandard")


def test_it_reads_what_was_compressed_frame_after_frame():
    noise = random.Random(0).randbytes(300_000)
    parts = [noise, b"", b"a" * 1_000_000, b"end"]
    raw = io.BytesIO(b"".join(map(zstandard.compress, parts)))
    assert io.BufferedReader(ZstdStream(raw), 1 << 16).read() == b"".join(parts)


def test_an_empty_file_is_an_empty_stream():
    assert ZstdStream(io.BytesIO()).read() == b""


@pytest.mark.parametrize("length", [1, 5, 20, -1])
def test_a_file_that_ends_within_a_frame_is_an_error(length):
    content = zstandard.compress(bytes(range(256)) * 40)
    with pytest.raises(EOFError, match="middle of a frame"):
        ZstdStream(io.BytesIO(content[:length])).read()


def test_what_follows_a_frame_has_to_be_a_frame():
    with pytest.raises(zstandard.ZstdError):
        ZstdStream(io.BytesIO(zstandard.compress(b"text") + b"garbage")).read()


def test_a_bomb_is_read_in_bounded_memory():
    bomb = zstandard.compress(bytes(256 << 20))
    assert len(bomb) < 1 << 15
    tracemalloc.start()
    stream = io.BufferedReader(ZstdStream(io.BytesIO(bomb)), 1 << 20)
    while stream.read(1 << 20):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80 << 20
