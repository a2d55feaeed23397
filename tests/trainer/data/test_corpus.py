import gzip
import json
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.trainer.data import corpus
from conform.trainer.data.corpus import read_documents
from conform.trainer.data.sources import find_sources
from conform.trainer.errors import DataError

pyarrow = pytest.importorskip("pyarrow")
zstandard = pytest.importorskip("zstandard")
from pyarrow import parquet  # noqa: E402  # only after it is known to be there


def texts(path, **options):
    (source,) = find_sources([str(path)])
    return [document.text for document in read_documents(source, **options)]


def skipping(path, **options):
    skipped = []
    found = texts(path, on_bad=lambda where, what: skipped.append((where, what)), **options)
    return found, skipped


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def test_a_text_file_is_one_document_kept_as_it_is(tmp_path):
    text = "  a\r\n\tb\rc\n\n é 中 👍 "
    assert texts(written(tmp_path, "a.txt", text.encode())) == [text]


def test_a_byte_order_mark_is_no_text(tmp_path):
    assert texts(written(tmp_path, "a.txt", b"\xef\xbb\xbfabc")) == ["abc"]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.txt.gz"])
def test_an_empty_file_has_no_documents(tmp_path, name):
    assert texts(written(tmp_path, name, gzip.compress(b"") if name.endswith("gz") else b"")) == []


@given(st.text(st.sampled_from("ab\n é"), max_size=60), st.integers(1, 20))
def test_cutting_loses_nothing_and_keeps_the_limit(tmp_path_factory, text, limit):
    path = written(tmp_path_factory.mktemp("cut"), "a.txt", text.encode())
    pieces = texts(path, max_chars=limit)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


def test_cuts_are_at_line_ends_where_there_are_any(tmp_path):
    assert texts(written(tmp_path, "a.txt", b"one\ntwo\nthree"), max_chars=9) == ["one\ntwo\n", "three"]
    assert texts(written(tmp_path, "b.txt", b"onetwothree"), max_chars=6) == ["onetwo", "three"]


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1000])
def test_cuts_do_not_depend_on_how_much_is_read_at_once(tmp_path, monkeypatch, block):
    path = written(tmp_path, "a.txt", "zeile\nélan\n中文 text ohne ende\n\n".encode() * 5)
    expected = texts(path, max_chars=13)
    monkeypatch.setattr(corpus, "_BLOCK", block)
    assert texts(path, max_chars=13) == expected


def test_a_gigantic_line_is_read_in_constant_memory(tmp_path):
    path = written(tmp_path, "a.txt.gz", gzip.compress(b"a" * (64 << 20), 1))
    (source,) = find_sources([str(path)])
    tracemalloc.start()
    total = sum(len(document.text) for document in read_documents(source, max_chars=1 << 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == 64 << 20
    assert peak < 12 << 20


@pytest.mark.parametrize("compress", [lambda b: b, gzip.compress, zstandard.compress], ids=["", ".gz", ".zst"])
def test_json_lines_come_in_order_blank_lines_left_out(tmp_path, compress):
    suffix = {gzip.compress: ".gz", zstandard.compress: ".zst"}.get(compress, "")
    content = b'{"text": "one\\n"}\n\n{"id": 1, "text": "zw\xc3\xb6lf"}\r\n{"text": ""}\n{"text": "end"}'
    assert texts(written(tmp_path, f"a.jsonl{suffix}", compress(content))) == ["one\n", "zwölf", "end"]


def test_zstd_frames_follow_one_another(tmp_path):
    content = zstandard.compress(b"one ") + zstandard.compress(b"two")
    assert texts(written(tmp_path, "a.txt.zst", content)) == ["one two"]


def test_a_zstd_window_that_is_too_large_is_not_called_damage(tmp_path):
    parameters = zstandard.ZstdCompressionParameters(window_log=28, write_content_size=False)
    writer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    content = writer.compress(b"text" * 100) + writer.flush()
    with pytest.raises(DataError, match=r"a\.txt\.zst: its zstd window is larger than 128 MiB.*recompress it"):
        texts(written(tmp_path, "a.txt.zst", content))


@pytest.mark.parametrize("frames", [1, 2])
def test_a_zstd_file_that_was_cut_off_is_refused_wherever_that_is(tmp_path, frames):
    # A text file cut off at a block would otherwise pass for a shorter text.
    content = zstandard.compress(bytes(range(32, 127)) * 3) * frames
    ends = {len(content) * number // frames for number in range(frames + 1)}
    for length in set(range(len(content))) - ends:
        with pytest.raises(DataError, match=r"a\.txt\.zst: damaged zstd file: the file ends in the middle of a frame"):
            texts(written(tmp_path, "a.txt.zst", content[:length]))


def test_parquet_rows_come_in_order_nulls_left_out(tmp_path):
    values = ["a", None, "", "b\n"]
    for number, kind in enumerate((pyarrow.string(), pyarrow.large_string(), pyarrow.dictionary("int32", "string"))):
        table = pyarrow.table({"id": [1, 2, 3, 4], "body": pyarrow.array(values).cast(kind)})
        parquet.write_table(table, tmp_path / f"{number}.parquet", row_group_size=2)
        assert texts(tmp_path / f"{number}.parquet", text_key="body") == ["a", "b\n"]


BAD_LINES = [
    (b"{", "is not JSON"),
    (b'"text"', "expected a JSON object, found str"),
    (b'{"body": 1}', "has no key 'text' (its keys: body)"),
    (b'{"text": 1}', "expected a string under 'text', found int"),
    (b'{"text": "\\ud800"}', "half a surrogate pair"),
    (b'{"text": "a\\u0000b"}', "NUL character"),
    (b'{"text": "\xff"}', "is not UTF-8"),
    (b"[" * 100_000, "is not JSON"),
    (b'{"text": ' + b"9" * 5000 + b"}", "is not JSON"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES, ids=[message for _, message in BAD_LINES])
def test_a_bad_line_is_refused_by_number_or_skipped(tmp_path, line, message):
    path = written(tmp_path, "a.jsonl", b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(DataError) as caught:
        texts(path)
    assert "a.jsonl: line 2" in str(caught.value)
    assert message in str(caught.value)
    found, skipped = skipping(path)
    assert found == ["one", "two"]
    assert [where for where, _ in skipped] == ["a.jsonl: line 2"]


def test_an_endless_line_is_skipped_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(corpus, "_LONGEST_LINE", 100)
    content = json.dumps({"text": "x" * 1000}).encode() + b'\n{"text": "two"}\n'
    found, ((_, what),) = skipping(written(tmp_path, "a.jsonl", content))
    assert found == ["two"]
    assert what == "is longer than 100 bytes"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"abc\xff", "is not UTF-8"), (b"ab\xc3", "is not UTF-8"), (b"\x7fELF\0\0", "NUL character")],
)
def test_a_binary_file_is_refused_by_name_or_skipped(tmp_path, content, message):
    path = written(tmp_path, "a.txt", content)
    with pytest.raises(DataError, match=rf"^a\.txt: .*{message}"):
        texts(path)
    assert skipping(path)[0] == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", b"no gzip", "damaged gzip file"),
        ("a.txt.gz", gzip.compress(b"abc" * 1000, mtime=0)[:-9], "damaged gzip file"),
        ("a.txt.zst", b"no zstd at all", "damaged zstd file"),
        ("a.parquet", b"PAR1 no parquet PAR1", "not a readable Parquet file"),
        ("a.parquet", b"", "not a readable Parquet file"),
    ],
)
def test_a_damaged_container_is_refused_by_name(tmp_path, name, content, message):
    with pytest.raises(DataError, match=f"^{name}: {message}"):
        texts(written(tmp_path, name, content))


@pytest.mark.parametrize(("key", "message"), [("text", "no column 'text'; its columns are id"), ("id", "found int64")])
def test_a_wrong_parquet_column_is_refused(tmp_path, key, message):
    parquet.write_table(pyarrow.table({"id": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=message):
        texts(tmp_path / "a.parquet", text_key=key)


def test_positions_grow_to_the_size_of_the_file(tmp_path):
    path = written(tmp_path, "a.jsonl", b'{"text": "abc"}\n' * 100)
    (source,) = find_sources([str(path)])
    positions = [document.position for document in read_documents(source)]
    assert positions == sorted(positions)
    assert positions[-1] == source.nbytes


def test_parquet_is_read_from_a_folder_whose_name_is_not_utf8(tmp_path):
    folder = tmp_path / "\udcff"
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system wants names in UTF-8")
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    (tmp_path / "a.parquet").rename(folder / "a.parquet")
    assert texts(folder / "a.parquet") == ["a"]
