import os

import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.checkpoint.locate import locate_checkpoint, newest_checkpoint
from conform.core.errors import CheckpointError, InputError

COMMIT, OLDER = "c0ffee" * 6, "beef" * 10


@pytest.fixture
def cache(tmp_path, checkpoint):
    """A hub's cache as its client lays it out: blobs, and a snapshot of relative links to them."""
    root = tmp_path / "models--org--name"
    (root / "blobs").mkdir(parents=True)
    snapshot = root / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(checkpoint.iterdir())):
        path.rename(root / "blobs" / f"{number:064x}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number:064x}")
    return root


def test_any_other_path_is_left_as_it_is(checkpoint, tmp_path):
    for path in (checkpoint, checkpoint / "model.safetensors", tmp_path / "nowhere"):
        assert locate_checkpoint(path) == path


def test_a_run_leads_to_its_newest_checkpoint(tmp_path, micro, make_checkpoint):
    for step in (2, 10):
        folder = make_checkpoint(tmp_path / f"run/checkpoints/step-{step:08}", micro, seed=step)
        os.utime(folder / "conform.json", (step, step))
    assert open_checkpoint(tmp_path / "run").path == tmp_path / "run/checkpoints/step-00000010"


def test_a_run_without_a_complete_checkpoint_is_refused(tmp_path):
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match="run: no complete checkpoint"):
        open_checkpoint(tmp_path / "run")


def test_a_cache_and_its_snapshot_are_one_checkpoint(cache):
    opened = open_checkpoint(cache)
    assert opened.path == cache / "snapshots" / COMMIT
    assert opened.digest == open_checkpoint(cache / "snapshots" / COMMIT).digest
    assert opened.tokenizer_path == opened.path / "tokenizer.model"
    opened.check_unchanged()


def test_of_several_snapshots_the_main_branch_names_one(cache):
    (cache / "snapshots" / OLDER).mkdir()
    with pytest.raises(CheckpointError, match="a cache with 2 snapshots, of which refs/main names none"):
        open_checkpoint(cache)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(COMMIT)
    assert open_checkpoint(cache).path.name == COMMIT


def test_a_link_to_a_blob_that_is_not_there_is_named(cache):
    for blob in (cache / "blobs").iterdir():
        blob.unlink()
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read: No such file"):
        open_checkpoint(cache)


def test_the_newest_checkpoint_is_the_one_finished_last(tmp_path, micro, tokenizer_bytes):
    for age, name in enumerate(["one/checkpoints/step-00000002", "one/checkpoints/step-00000010", "two"]):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "conform.json").write_text("{}")
        os.utime(tmp_path / name / "conform.json", (1000 - age, 1000 - age))
    hidden = tmp_path / "one/checkpoints/.step-00000011"
    hidden.mkdir()
    (hidden / "conform.json").write_text("{}")
    assert newest_checkpoint(tmp_path) == tmp_path / "one/checkpoints/step-00000002"


def test_no_checkpoint_at_all_is_a_clear_error(tmp_path):
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        newest_checkpoint(tmp_path)
