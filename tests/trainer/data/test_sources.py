import os

import pytest

from conform.trainer.data.sources import find_sources, source_sha256
from conform.trainer.errors import DataError


def names(inputs, **options):
    return [source.name for source in find_sources([str(given) for given in inputs], **options)]


def test_a_folder_is_read_recursively_in_byte_order_of_its_names(tmp_path):
    for name in ("b.txt", "a/z.md", "a/Ä.py", "a/b.jsonl.gz", "c.parquet", "B.txt.zst"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = tmp_path.name
    expected = ["B.txt.zst", "a/b.jsonl.gz", "a/z.md", "a/Ä.py", "b.txt", "c.parquet"]
    assert names([tmp_path]) == [f"{root}/{name}" for name in expected]


def test_other_suffixes_and_hidden_entries_are_left_out(tmp_path):
    for name in ("a.txt", "b.html", ".c.txt", ".git/d.txt", "e.bin.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names([tmp_path]) == [f"{tmp_path.name}/a.txt"]
    assert names([tmp_path], suffixes=[".html"]) == [f"{tmp_path.name}/a.txt", f"{tmp_path.name}/b.html"]


def test_a_named_file_may_have_any_suffix(tmp_path):
    (tmp_path / "README").write_text("x")
    (source,) = find_sources([str(tmp_path / "README")])
    assert (source.name, source.kind, source.compression, source.nbytes) == ("README", "text", "", 1)


@pytest.mark.parametrize(
    ("name", "kind", "compression"),
    [
        ("a.ndjson", "jsonl", ""),
        ("a.jsonl.zst", "jsonl", ".zst"),
        ("a.gz", "text", ".gz"),
        ("a.parquet", "parquet", ""),
    ],
)
def test_the_name_tells_kind_and_compression(tmp_path, name, kind, compression):
    (tmp_path / name).touch()
    (source,) = find_sources([str(tmp_path / name)])
    assert (source.kind, source.compression) == (kind, compression)


def test_links_to_folders_are_not_followed_so_a_loop_ends(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert names([tmp_path]) == [f"{tmp_path.name}/a.txt"]


def test_the_standard_library_is_named_and_holds_no_tests():
    found = names(["python-stdlib"])
    assert "python-stdlib/json/decoder.py" in found
    assert found == [source.name for source in find_sources(["python-stdlib"])]
    left_out = ("site-packages", "/test/", "_sysconfigdata", "/encodings/")
    assert not [name for name in found if any(part in name for part in left_out)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "no such file or folder and no named corpus"),
        (lambda path: path.mkdir(), "no text in this folder"),
        (lambda path: path.symlink_to(path), "no such file or folder"),
        (os.mkfifo, "not a regular file"),
    ],
    ids=["missing", "empty folder", "link to itself", "pipe"],
)
def test_what_holds_no_text_is_refused_by_name(tmp_path, make, message):
    make(tmp_path / "given")
    with pytest.raises(DataError, match=rf"given: .*{message}"):
        find_sources([str(tmp_path / "given")])


def test_no_input_and_compressed_parquet_are_refused(tmp_path):
    with pytest.raises(DataError, match="no input"):
        find_sources([])
    (tmp_path / "a.parquet.gz").touch()
    with pytest.raises(DataError, match="decompress it first"):
        find_sources([str(tmp_path / "a.parquet.gz")])


def test_a_file_name_that_is_not_utf8_is_refused(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"\xff.txt")
    os.close(os.open(path, os.O_CREAT))
    with pytest.raises(DataError, match="file name is not UTF-8"):
        find_sources([str(tmp_path)])


def test_a_source_that_grew_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (source,) = find_sources([str(tmp_path / "a.txt")])
    (tmp_path / "a.txt").write_text("xy")
    with pytest.raises(DataError, match="expected 1 bytes, found 2"):
        source_sha256(source)
