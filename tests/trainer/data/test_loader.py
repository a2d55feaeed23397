import hashlib
import json
import shutil
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conform.trainer.data.loader import SampleOrder, TokenLoader
from conform.trainer.data.manifest import manifest_digest, read_manifest
from conform.trainer.data.permutation import permute
from conform.trainer.errors import DataError, InputError

SEQ, BATCH = 16, 4


@pytest.fixture
def folder(tmp_path, built_data):
    shutil.copytree(built_data, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def load(built_data):
    """Open `built_data`, or another folder; closed at the end."""
    opened = []

    def loader(folder=built_data, seq_len=SEQ, global_batch=BATCH, seed=7, **options):
        opened.append(TokenLoader(folder, seq_len, global_batch, seed, **options))
        return opened[-1]

    yield loader
    for each in opened:
        each.close()


def stream(folder, split="train"):
    shards = read_manifest(folder).split(split).shards
    return np.concatenate([np.fromfile(folder / shard.name, "<u2") for shard in shards]).astype(np.int64)


def places_of(loader, samples):
    return SampleOrder(loader.windows, loader.seed).windows(0, samples).tolist()


def test_rows_are_windows_of_the_stream_across_shards(load, built_data):
    loader, tokens = load(), stream(built_data)
    assert loader.windows == (len(tokens) - 1) // SEQ
    places = places_of(loader, loader.windows)
    crossing = 0
    for step in range(loader.windows // BATCH):
        batch = loader.batch(step)
        assert batch.shape == (BATCH, SEQ + 1)
        assert batch.dtype == np.int64
        for row, sample in zip(batch, range(step * BATCH, (step + 1) * BATCH), strict=True):
            start = places[sample] * SEQ
            assert row.tolist() == tokens[start : start + SEQ + 1].tolist()
            crossing += start // 1000 != (start + SEQ) // 1000
    assert crossing


def test_the_order_is_the_permutation_of_seed_and_epoch(load):
    loader = load()
    n = loader.windows
    places = places_of(loader, 2 * n)
    assert places[:n] == permute(np.arange(n), n, (7, 0)).tolist()
    assert places[n:] == permute(np.arange(n), n, (7, 1)).tolist()


def test_every_window_is_seen_once_in_an_epoch_and_epochs_differ(load):
    loader = load()
    places = places_of(loader, 2 * loader.windows)
    first, second = places[: loader.windows], places[loader.windows :]
    assert sorted(first) == sorted(second) == list(range(loader.windows))
    assert first != second


def test_a_batch_is_a_pure_function_of_seed_and_step(load):
    forward = [load().batch(step).tolist() for step in range(12)]
    loader = load()
    for step in (11, 3, 3, 0, 7, 8, 1):
        assert loader.batch(step).tolist() == forward[step]
    assert load(seed=8).batch(0).tolist() != forward[0]


@pytest.mark.parametrize("start", [0, 5, 10**6, 10**12])
def test_resuming_anywhere_costs_nothing(load, start):
    whole = load()
    expected = [whole.batch(step).tolist() for step in range(start, start + 3)]
    resumed = load()
    assert [resumed.batch(step).tolist() for step in range(start + 1, start + 3)] == expected[1:]


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_ranks_share_out_the_batch_in_order(load, world):
    # Step 100 onwards crosses the end of an epoch.
    whole = load(global_batch=6)
    last = whole.windows // 6
    ranks = [load(global_batch=6, rank=rank, world=world) for rank in range(world)]
    for step in (0, 1, last - 1, last, last + 1):
        parts = [rank.batch(step) for rank in ranks]
        assert all(len(part) == 6 // world for part in parts)
        assert np.concatenate(parts).tolist() == whole.batch(step).tolist()


def test_a_batch_may_cross_the_end_of_an_epoch(load):
    loader = load(global_batch=10)
    step = loader.windows // 10
    samples = range(step * 10, step * 10 + 10)
    assert len({sample // loader.windows for sample in samples}) == 2
    rows, places = loader.batch(step), places_of(loader, samples.stop)
    tokens = stream(loader.folder)
    for row, sample in zip(rows, samples, strict=True):
        start = places[sample] * SEQ
        assert row.tolist() == tokens[start : start + SEQ + 1].tolist()


@pytest.mark.parametrize("batch_size", [1, 3, 1000])
def test_held_out_windows_come_in_stream_order(load, built_data, batch_size):
    loader, tokens = load(rank=1, world=2), stream(built_data, "held_out")
    batches = list(loader.held_out(batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    rows = np.concatenate(batches)
    assert len(rows) == loader.held_out_windows == (len(tokens) - 1) // SEQ
    assert rows[:, :-1].ravel().tolist() == tokens[: len(rows) * SEQ].tolist()
    assert rows[:, 1:].ravel().tolist() == tokens[1 : len(rows) * SEQ + 1].tolist()


@settings(deadline=None, max_examples=20)
@given(seq_len=st.integers(1, 300), global_batch=st.integers(1, 20), step=st.integers(0, 10**9))
def test_any_shape_gives_full_rows_of_known_ids(built_data, seq_len, global_batch, step):
    with TokenLoader(built_data, seq_len, global_batch, 1) as loader:
        batch = loader.batch(step)
        assert batch.shape == (global_batch, seq_len + 1)
        assert batch.min() >= 0
        assert batch.max() < loader.manifest.vocab


def test_the_last_window_ends_with_the_last_token_at_most(load, built_data):
    tokens = stream(built_data, "held_out")
    for seq_len in (1, len(tokens) - 1):
        rows = np.concatenate(list(load(seq_len=seq_len).held_out(10**6)))
        assert rows[-1, -1] == tokens[-1]
        assert len(rows) * seq_len == len(tokens) - 1


def test_reading_ahead_forgets_what_was_not_asked_for(load):
    loader = load()
    for step in (0, 100, 50, 3, 1000):
        loader.batch(step)
        assert len(loader._prefetch._ahead) == 4


def test_the_loader_names_its_manifest(load, built_data):
    assert load().manifest_digest == manifest_digest(built_data)
    assert load().manifest == read_manifest(built_data)


def test_closing_ends_the_thread(built_data):
    with TokenLoader(built_data, SEQ, BATCH, 1) as loader:
        loader.batch(0)
        assert [thread for thread in threading.enumerate() if thread.name.startswith("token-loader")]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("token-loader")]


def flip(path):
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["train-00001.bin", "held_out-00000.bin"])
def test_a_changed_shard_is_refused_by_name_at_open(load, folder, name):
    flip(folder / name)
    with pytest.raises(DataError, match=f"{name}: changed since it was built"):
        load(folder, verify="full")


def test_a_changed_shard_is_refused_by_name_at_first_use(load, folder):
    flip(folder / "train-00001.bin")
    flip(folder / "held_out-00000.bin")
    loader = load(folder)
    with pytest.raises(DataError, match=r"train-00001\.bin: changed"):
        [loader.batch(step) for step in range(loader.windows // BATCH)]
    with pytest.raises(DataError, match=r"held_out-00000\.bin: changed"):
        next(loader.held_out(1))


@pytest.mark.parametrize("name", ["train-00000.bin", "held_out-00000.bin"])
def test_a_shard_that_changes_after_its_first_use_is_noticed(load, folder, name):
    loader = load(folder, verify="full")
    loader.check_unchanged()
    flip(folder / name)
    with pytest.raises(DataError, match=f"{name}: changed since it was built"):
        loader.check_unchanged()


def test_a_shard_that_was_touched_but_not_changed_is_no_obstacle(load, folder):
    loader = load(folder, verify="full")
    (folder / "train-00000.bin").touch()
    loader.check_unchanged()


def test_a_shard_that_is_gone_after_its_first_use_is_noticed(load, folder):
    loader = load(folder, verify="full")
    (folder / "train-00000.bin").unlink()
    with pytest.raises(DataError, match=r"train-00000\.bin: cannot be read"):
        loader.check_unchanged()


def test_a_manifest_that_changes_is_noticed(load, folder):
    loader = load(folder)
    with (folder / "manifest.json").open("a") as file:
        file.write(" ")
    with pytest.raises(DataError, match="its manifest changed while the data was read; begin again"):
        loader.check_unchanged()


def test_a_changed_shard_is_used_when_told_not_to_look(load, folder):
    flip(folder / "train-00000.bin")
    load(folder, verify="off").batch(0)


@pytest.mark.parametrize("verify", ["lazy", "full", "off"])
@pytest.mark.parametrize("name", ["train-00002.bin", "held_out-00000.bin"])
def test_missing_truncated_and_foreign_shards_are_refused_by_name_whatever_is_verified(load, folder, name, verify):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2])
    with pytest.raises(DataError, match=f"{name}: expected {len(content)} bytes .* found {len(content) - 2} bytes"):
        load(folder, verify=verify)
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}: .* found missing"):
        load(folder, verify=verify)
    (folder / name).write_bytes(content)
    (folder / "train-00099.bin").touch()
    with pytest.raises(DataError, match=r"train-00099\.bin: foreign"):
        load(folder, verify=verify)


@pytest.mark.parametrize("verify", ["lazy", "full"])
def test_ids_outside_the_vocabulary_are_refused(load, folder, verify):
    path = folder / "held_out-00000.bin"
    path.write_bytes(b"\xff\xff" + path.read_bytes()[2:])
    data = json.loads((folder / "manifest.json").read_text())
    data["held_out"]["shards"][0]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(DataError, match="token 65535 is not below the vocabulary 512"):
        next(load(folder, verify=verify).held_out(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"global_batch": 6, "world": 4}, "6 does not divide by 4 processes"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"rank": -1}, "rank -1 of 1"),
        ({"seq_len": 0}, "sequences of 0"),
        ({"global_batch": 0}, "0 sequences"),
        ({"seq_len": 10**6}, "split has .* needs 1000001"),
    ],
)
def test_impossible_shapes_are_refused(load, options, message):
    with pytest.raises(DataError, match=message):
        load(**options)


def test_a_negative_step_is_refused(load):
    with pytest.raises(DataError, match="step -1"):
        load().batch(-1)


def test_an_unfinished_build_is_refused(load, folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(InputError, match="interrupted build"):
        load(folder)
