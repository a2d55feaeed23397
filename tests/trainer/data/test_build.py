import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from conform.trainer.data import batches as data_batches
from conform.trainer.data import build as data_build
from conform.trainer.data import journal as data_journal
from conform.trainer.data.build import build_data
from conform.trainer.data.manifest import manifest_digest, read_manifest
from conform.trainer.errors import DataError, InputError

pytestmark = pytest.mark.usefixtures("no_fsync")


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tokens(folder, split):
    manifest = read_manifest(folder)
    kind = {"uint16": "<u2", "uint32": "<u4"}[manifest.dtype]
    return np.concatenate([np.fromfile(folder / shard.name, kind) for shard in manifest.split(split).shards])


@pytest.fixture
def small_batches(monkeypatch):
    """Many batches even of little text, so that there is something to interrupt and to put in order."""
    monkeypatch.setattr(data_batches, "_BATCH_CHARS", 700)


@pytest.fixture
def build(tmp_path, text_folder, tokenizer_folder, small_batches):
    """Build with the options of `built_data`, but for those given."""

    def built(name="out", *, inputs=None, tokenizer=tokenizer_folder, **options):
        chosen = {"shard_tokens": 1000, "held_out": 0.2, "workers": 2, **options}
        return build_data(inputs or [str(text_folder)], tokenizer, tmp_path / name, **chosen)

    return built


def test_documents_are_bos_ids_eos_in_order_on_the_side_of_their_hash(built_data, text_folder, tokenizer_folder):
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_folder / "tokenizer.model"))
    expected = {"train": [], "held_out": []}
    for path in sorted(text_folder.iterdir()):
        fraction = int(hashlib.sha256(path.read_bytes()).hexdigest()[:16], 16) / 2**64
        expected["held_out" if fraction < 0.2 else "train"] += [1, *processor.encode(path.read_text()), 2]
    assert expected["held_out"]
    for split, ids in expected.items():
        assert tokens(built_data, split).tolist() == ids


def test_the_manifest_counts_and_hashes_what_is_there(built_data, text_folder, tokenizer_folder):
    manifest = read_manifest(built_data)
    paths = sorted(text_folder.iterdir())
    assert manifest.train.documents + manifest.held_out.documents == len(paths)
    assert manifest.train.bytes + manifest.held_out.bytes == sum(path.stat().st_size for path in paths)
    assert [s.sha256 for s in manifest.sources] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    for shard in manifest.shards:
        assert hashlib.sha256((built_data / shard.name).read_bytes()).hexdigest() == shard.sha256
    assert [shard.tokens for shard in manifest.train.shards[:-1]] == [1000] * (len(manifest.train.shards) - 1)
    assert (built_data / "tokenizer.model").read_bytes() == (tokenizer_folder / "tokenizer.model").read_bytes()
    assert (manifest.vocab, manifest.dtype, manifest.bos_id, manifest.eos_id) == (512, "uint16", 1, 2)


def test_nothing_but_the_finished_build_is_left(built_data):
    shards = {shard.name for shard in read_manifest(built_data).shards}
    assert set(files(built_data)) == shards | {"manifest.json", "tokenizer.model"}


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_bytes_are_the_same_for_any_number_of_workers(build, tmp_path, built_data, workers):
    build(workers=workers)
    assert files(tmp_path / "out") == files(built_data)


def test_the_bytes_do_not_depend_on_the_path(build, tmp_path, text_folder, built_data):
    shutil.copytree(text_folder, tmp_path / "elsewhere" / text_folder.name)
    build(inputs=[str(tmp_path / "elsewhere" / text_folder.name)])
    assert files(tmp_path / "out") == files(built_data)


def test_equal_documents_stand_on_one_side(build, tmp_path, text_folder):
    lines = [json.dumps({"text": f"document {number % 50}"}) for number in range(500)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    manifest = build(inputs=[str(tmp_path / "a.jsonl")])
    assert manifest.held_out.documents % 10 == manifest.train.documents % 10 == 0


def test_a_large_vocabulary_is_written_as_uint32(build, tmp_path, monkeypatch, built_data):
    monkeypatch.setattr(data_build, "_LARGEST_UINT16_VOCAB", 511)
    assert build().dtype == "uint32"
    assert tokens(tmp_path / "out", "train").tolist() == tokens(built_data, "train").tolist()


def test_a_finished_build_of_the_same_is_returned_as_it_is(build, tmp_path):
    first = build()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert build(workers=1) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == times


@pytest.mark.parametrize("change", [{"held_out": 0.3}, {"shard_tokens": 999}, {"max_chars": 400}, {"text_key": "x"}])
def test_a_finished_build_of_something_else_is_refused(build, tmp_path, change):
    build()
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="holds finished data of other inputs"):
        build(**change)
    assert files(tmp_path / "out") == before


class Interrupted(Exception):  # noqa: N818  # what it stands for is no error
    pass


def interrupting(count):
    """A progress callback that ends the build at its `count`-th call."""
    left = iter(range(count))

    def on_status(status):
        if next(left, None) is None:
            raise Interrupted

    return on_status


@pytest.mark.parametrize("count", [0, 1, 5, 12, 30])
@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["journal at every batch", "journal at every shard"])
def test_an_interrupted_build_leaves_no_manifest_and_goes_on(build, tmp_path, built_data, monkeypatch, count, seconds):
    monkeypatch.setattr(data_build, "_JOURNAL_SECONDS", seconds)
    with pytest.raises(Interrupted):
        build(on_status=interrupting(count))
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(InputError, match="conform data build"):
        read_manifest(tmp_path / "out")
    with pytest.raises(Interrupted):
        build(on_status=interrupting(3))
    build()
    assert files(tmp_path / "out") == files(built_data)


def test_going_on_does_not_start_again(build, tmp_path, monkeypatch):
    monkeypatch.setattr(data_build, "_JOURNAL_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        build(on_status=interrupting(20))
    statuses = []
    build(on_status=statuses.append)
    assert statuses[0].tokens > 3000


@pytest.mark.parametrize("nth", range(1, 12))
def test_dying_between_completing_a_shard_and_writing_that_down_is_harmless(
    build, tmp_path, built_data, monkeypatch, nth
):
    calls = iter(range(1, 1000))
    write = data_journal.BuildJournal.write

    def dying(journal, folder):
        if next(calls) == nth:
            raise Interrupted
        write(journal, folder)

    monkeypatch.setattr(data_journal.BuildJournal, "write", dying)
    with pytest.raises(Interrupted):
        build()
    build()
    assert files(tmp_path / "out") == files(built_data)


KILLED = """
import os, signal, sys
from pathlib import Path
from conform.trainer.data import batches as data_batches
from conform.trainer.data import build as data_build
data_batches._BATCH_CHARS = 700
data_build._JOURNAL_SECONDS = 0.0
text, tokenizer, out, count = sys.argv[1:]
left = iter(range(int(count)))
def on_status(status):
    if next(left, None) is None:
        os.kill(os.getpid(), signal.SIGKILL)
data_build.build_data([text], Path(tokenizer), Path(out), shard_tokens=1000, held_out=0.2, on_status=on_status)
"""


def test_a_build_that_was_killed_at_its_end_leaves_no_journal(build, tmp_path):
    build()
    whole = files(tmp_path / "out")
    (tmp_path / "out" / "build.json").write_text("{}")
    build()
    assert files(tmp_path / "out") == whole


def test_a_killed_build_goes_on(build, tmp_path, text_folder, tokenizer_folder, built_data):
    arguments = [str(text_folder), str(tokenizer_folder), str(tmp_path / "out")]
    for count in ("7", "9"):
        killed = subprocess.run([sys.executable, "-c", KILLED, *arguments, count], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert (tmp_path / "out" / "build.json").exists()
    build()
    assert files(tmp_path / "out") == files(built_data)


def test_a_full_disk_is_one_sentence_and_the_build_goes_on(tmp_path, text_folder, tokenizer_folder):
    # A limit on the size of a file fails a write in the same place as a disk without room.
    command = [sys.executable, "-m", "conform.core.cli", "data", "build", "--input", str(text_folder)]
    command += ["--tokenizer", str(tokenizer_folder), "-o", str(tmp_path / "out"), "--held-out", "0.2"]
    limit = (tokenizer_folder / "tokenizer.model").stat().st_size + 1000
    full = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),  # no threads here
    )
    assert full.returncode == 2
    assert re.fullmatch(r"conform: .*out: cannot be written: File too large; make room .*\n", full.stderr)
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_an_interrupted_build_of_something_else_is_refused(build, tmp_path):
    with pytest.raises(Interrupted):
        build(on_status=interrupting(5))
    before = files(tmp_path / "out")
    with pytest.raises(DataError, match="holds an unfinished build of other inputs"):
        build(held_out=0.3)
    assert files(tmp_path / "out") == before


def test_a_source_that_changed_in_between_is_noticed(build, tmp_path, text_folder):
    shutil.copytree(text_folder, tmp_path / "text")
    with pytest.raises(Interrupted):
        build(inputs=[str(tmp_path / "text")], on_status=interrupting(5))
    (tmp_path / "text" / "000.txt").write_text("something else")
    with pytest.raises(DataError, match="unfinished build of other inputs"):
        build(inputs=[str(tmp_path / "text")])


def test_a_source_that_changes_while_it_is_read_is_noticed(build, tmp_path, text_folder):
    shutil.copytree(text_folder, tmp_path / "text")
    last = max((tmp_path / "text").iterdir())

    def rewrite(_status):
        last.write_bytes(last.read_bytes()[::-1])

    with pytest.raises(DataError, match=rf"{last.name}: (changed while the data was built|expected)"):
        build(inputs=[str(tmp_path / "text")], on_status=rewrite)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"fingerprint": 1}'])
def test_a_damaged_journal_is_refused(build, tmp_path, content):
    with pytest.raises(Interrupted):
        build(on_status=interrupting(5))
    (tmp_path / "out" / "build.json").write_text(content)
    with pytest.raises(InputError, match=r"build\.json: (damaged|not the journal of a build: .*); delete .* again$"):
        build()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"document": ', '"document": 1'),
        ('"documents": ', '"documents": 1'),
        ('"sha256": "', '"sha256": "0'),
        ("{", "[{"),
    ],
)
def test_a_changed_journal_is_refused(build, tmp_path, old, new):
    with pytest.raises(Interrupted):
        build(on_status=interrupting(9))
    journal = tmp_path / "out" / "build.json"
    text = journal.read_text()
    assert old in text
    journal.write_text(text.replace(old, new, 1))
    with pytest.raises(
        InputError, match=r"build\.json: (damaged|not the journal of a build: .*); delete .* and build again$"
    ):
        build()


def test_an_open_shard_that_changed_in_between_is_refused(build, tmp_path, monkeypatch):
    monkeypatch.setattr(data_build, "_JOURNAL_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        build(on_status=interrupting(9))
    part = next(path for path in (tmp_path / "out").glob(".*.part") if path.stat().st_size)
    content = part.read_bytes()
    part.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(DataError, match=rf"{re.escape(part.name)}: changed since the interrupted build"):
        build()


def test_a_folder_with_other_files_is_refused(build, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not empty \(it holds notes\.txt\)"):
        build()
    assert files(tmp_path / "out") == {"notes.txt": b"mine"}


def test_a_folder_that_is_a_file_is_refused(build, tmp_path):
    (tmp_path / "out").touch()
    with pytest.raises(DataError, match="out: is a file, but the shards need a folder"):
        build()


def test_a_second_build_into_the_same_folder_is_refused(build, tmp_path):
    def start_another(status):
        with pytest.raises(DataError, match="another build is writing there"):
            build()
        raise Interrupted

    with pytest.raises(Interrupted):
        build(on_status=start_another)


@pytest.mark.parametrize("held_out", [0.0, 1.0, -1.0, 2.0, float("nan")])
def test_a_held_out_fraction_must_lie_between_0_and_1(build, held_out):
    with pytest.raises(DataError, match="expected a fraction between 0 and 1"):
        build(held_out=held_out)


@pytest.mark.parametrize("change", [{"shard_tokens": 0}, {"max_chars": 0}, {"workers": -1}])
def test_sizes_must_be_positive(build, change):
    with pytest.raises(DataError, match="expected"):
        build(**change)


def test_a_split_without_documents_is_refused_and_another_try_is_free(build, tmp_path):
    (tmp_path / "one.txt").write_text("".join(f"just one document, line {number}\n" for number in range(50)))
    with pytest.raises(DataError, match=r"1 documents to train on and 0 held out|0 .* train on and 1 held out"):
        build(inputs=[str(tmp_path / "one.txt")])
    assert files(tmp_path / "out") == {}
    manifest = build(inputs=[str(tmp_path / "one.txt")], max_chars=37)
    assert manifest.train.documents
    assert manifest.held_out.documents


@pytest.mark.parametrize("content", ["", "\n"])
def test_a_corpus_without_documents_is_refused(build, tmp_path, content):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match="0 documents to train on and 0 held out"):
        build(inputs=[str(tmp_path / "a.jsonl")])


def test_bad_documents_are_refused_by_name_or_counted(build, tmp_path):
    lines = [json.dumps({"text": f"document {number}"}) for number in range(200)]
    lines[20:20] = ["{", '{"text": "\\u0000"}']
    lines[150:150] = ["{"]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl: line 21: is not JSON .*--on-bad skip"):
        build(inputs=[str(tmp_path / "a.jsonl")])
    manifest = build(inputs=[str(tmp_path / "a.jsonl")], skip_bad=True)
    assert manifest.train.documents + manifest.held_out.documents == 200
    assert manifest.skipped == {"is not JSON": 2, "holds a NUL character, so it is binary and not text": 1}


@pytest.mark.parametrize("count", range(5))
def test_what_was_skipped_is_counted_once_however_often_it_is_interrupted(build, tmp_path, monkeypatch, count):
    monkeypatch.setattr(data_build, "_JOURNAL_SECONDS", 0.0)
    lines = [json.dumps({"text": f"document {number} " + "x" * 100}) if number % 3 else "{" for number in range(60)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with pytest.raises(Interrupted):
        build(inputs=[str(tmp_path / "a.jsonl")], skip_bad=True, on_status=interrupting(count))
    assert build(inputs=[str(tmp_path / "a.jsonl")], skip_bad=True).skipped == {"is not JSON": 20}


def test_a_tokenizer_without_bos_or_eos_is_refused(build, tmp_path, text_folder):
    texts = [path.read_text() for path in text_folder.iterdir()]
    with (tmp_path / "odd.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=file, vocab_size=400, bos_id=-1, minloglevel=2
        )
    with pytest.raises(DataError, match="no bos or eos piece"):
        build(tokenizer=tmp_path / "odd.model")


def test_progress_reaches_the_end(build):
    statuses = []
    manifest = build(on_status=statuses.append)
    assert statuses[-1].read == statuses[-1].total == sum(source.bytes for source in manifest.sources)
    assert statuses[-1].tokens == manifest.train.tokens + manifest.held_out.tokens
    assert [status.read for status in statuses] == sorted(status.read for status in statuses)


@pytest.mark.skipif(os.getuid() == 0, reason="root may write into a read-only folder")
def test_a_read_only_folder_is_one_sentence(build, tmp_path):
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(DataError, match="cannot be written"):
        build()


def test_the_digest_binds_everything(build, tmp_path):
    build("a")
    build("b")
    build("c", held_out=0.21)
    digests = [manifest_digest(tmp_path / name) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
