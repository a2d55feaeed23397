"""Runs of one process, inside the test's own: what a run leaves behind, and what it refuses."""

import dataclasses
import json
import operator
import random
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conform.contract.check import TensorSeen, check_tensors
from conform.contract.load import load_contract
from conform.core.checkpoint.sidecar import read_sidecar
from conform.trainer.checkpoints.store import CheckpointStore
from conform.trainer.config import read_config
from conform.trainer.distributed.world import World, join
from conform.trainer.errors import ConformError, TrainError
from conform.trainer.run import loop
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.loop import Routines
from conform.trainer.run.request import TrainRequest, load_request
from conform.trainer.run.step import train_step

SHORT = {"steps": 12, "batch": 8, "sequence": 32, "lr": 3e-3, "save_every": 4, "eval_every": 6, "dtype": "f32"}


class Notes(SilentView):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def carried_out(request, view=None, routines=None):
    """How the run ended that was asked for; None when it was complete already."""
    loaded = load_request(request)
    return launch(loaded, join(loaded.settings), view or SilentView(), routines)


@pytest.fixture
def train(data, contracts):
    def run(out, *, resume=False, view=None, routines=None, contract="dense", source=data, **values):
        given = (None, None) if resume else (str(contracts / f"{contract}.toml"), source)
        request = TrainRequest(out, resume, *given, None, {**({} if resume else SHORT), **values})
        return carried_out(request, view, routines)

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, contracts):
    """A complete run of twelve steps; copy before changing it."""
    out = tmp_path_factory.mktemp("finished") / "run"
    carried_out(TrainRequest(out, False, str(contracts / "dense.toml"), data, None, SHORT))
    return out


@pytest.fixture
def copied(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def interrupted(copied):
    """The finished run as a kill after step 8 would have left it."""
    (copied / "complete.json").unlink()
    shutil.rmtree(copied / "checkpoints/step-00000012")
    return copied


def weights(run, step=12):
    return load_file(run / f"checkpoints/step-{step:08d}/model.safetensors")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_checkpoint_conforms_to_its_contract(finished, contracts):
    contract = load_contract(str(contracts / "dense.toml"))
    seen = {name: TensorSeen(tuple(value.shape), "F32") for name, value in weights(finished).items()}
    assert check_tensors(seen, contract.model) == []


def test_a_sidecar_binds_contract_tokenizer_data_code_and_files(finished, contracts):
    path = finished / "checkpoints/step-00000012"
    sidecar = read_sidecar(path)
    assert sidecar.contract_digest == load_contract(str(contracts / "dense.toml")).digest
    assert (sidecar.step, sidecar.tokens) == (12, 12 * 8 * 32)
    assert len(sidecar.tokenizer_digest) == len(sidecar.data_digest) == len(sidecar.trainer["code"]) == 64
    assert sidecar.trainer["config"]["lr"] == 3e-3
    named = set(sidecar.files) | set(sidecar.trainer["resume"]) | {"conform.json"}
    assert named == {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}


def test_whoever_may_read_the_sidecar_may_read_the_weights(finished):
    modes = {path.name: path.stat().st_mode for path in finished.glob("checkpoints/step-*/*") if path.is_file()}
    assert modes["model.safetensors"] == modes["conform.json"]


def test_a_checkpoint_states_what_its_evaluation_found(finished, curve):
    held_out = read_sidecar(finished / "checkpoints/step-00000012").held_out
    assert held_out["perplexity"] > 1
    assert held_out == {k: v for k, v in curve(finished)[-1].items() if k not in {"kind", "step"}}
    assert read_sidecar(finished / "checkpoints/step-00000008").held_out is None


def test_the_loss_falls(finished, curve):
    losses = [record["loss"] for record in curve(finished) if record["kind"] == "step"]
    assert losses[-1] < losses[0] - 0.5


def test_old_checkpoints_are_removed(finished):
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-00000008", "step-00000012"]


def test_checkpoints_of_keep_every_stay(train, tmp_path):
    train(tmp_path / "run", keep_last=1, keep_every=8, save_every=2, steps=10)
    kept = [path.name for path in sorted((tmp_path / "run/checkpoints").iterdir())]
    assert kept == ["step-00000008", "step-00000010"]


def test_a_run_that_was_interrupted_ends_bit_for_bit_the_same(train, finished, interrupted, curve):
    train(interrupted, resume=True)
    assert same(weights(interrupted), weights(finished))
    assert curve(interrupted) == curve(finished)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("place", ["_Run._evaluate", "Recorder.held_out", "CheckpointStore.annotate"])
@pytest.mark.parametrize("step", [6, 12])
def test_what_a_run_did_not_live_to_measure_is_made_up(train, finished, tmp_path, curve, monkeypatch, place, step):
    run = tmp_path / "run"
    original = operator.attrgetter(place)(loop)

    def killed(*arguments):
        if max(CheckpointStore(run).steps()) == step:
            raise Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(f"conform.trainer.run.loop.{place}", killed)
        with pytest.raises(Killed):
            train(run, save_every=2)
    train(run, resume=True)
    assert curve(run) == curve(finished)
    assert read_sidecar(run / "checkpoints/step-00000012").held_out is not None
    assert json.loads((run / "complete.json").read_text())["step"] == 12


def test_what_a_run_that_was_stopped_would_have_measured_is_made_up(train, finished, tmp_path, curve, monkeypatch):
    run = tmp_path / "run"
    signals = iter([0] * 5 + [15])
    with monkeypatch.context() as patch:
        patch.setattr(loop.StopRequest, "agreed", lambda *_: next(signals))
        assert train(run, save_every=2).step == 6
    train(run, resume=True)
    assert curve(run) == curve(finished)


def test_equal_runs_leave_equal_bytes(train, finished, tmp_path):
    random.random()
    np.random.random()  # the state that a checkpoint holds is the one of the old generator
    train(tmp_path / "run")
    for path in (path for path in sorted(finished.rglob("checkpoints/**/*")) if path.is_file()):
        assert (tmp_path / "run" / path.relative_to(finished)).read_bytes() == path.read_bytes(), path


def test_saving_in_a_thread_changes_no_bit(train, finished, tmp_path, curve):
    train(tmp_path / "run", async_save=True)
    assert same(weights(tmp_path / "run"), weights(finished))
    assert curve(tmp_path / "run") == curve(finished)


def test_weights_in_many_files_resume_the_same(train, finished, tmp_path):
    run = tmp_path / "run"
    train(run, shard_gb=1e-4)
    index = json.loads((run / "checkpoints/step-00000012/model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert index["weight_map"].keys() == weights(finished).keys()
    (run / "complete.json").unlink()
    shutil.rmtree(run / "checkpoints/step-00000012")
    train(run, resume=True, shard_gb=4.0)
    assert same(weights(run), weights(finished))


def test_accumulated_micro_batches_are_one_batch(train, tmp_path, curve, finished):
    train(tmp_path / "run", micro_batch=2)
    for one, other in zip(curve(tmp_path / "run"), curve(finished), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_a_finished_run_is_not_trained_again(train, copied):
    before = (copied / "metrics.jsonl").stat().st_mtime_ns
    notes = Notes()
    assert train(copied, resume=True, view=notes) is None
    assert (copied / "metrics.jsonl").stat().st_mtime_ns == before
    assert "complete" in notes.lines[0]


def test_a_finished_run_can_be_made_longer(train, copied):
    assert train(copied, resume=True, steps=14).step == 14
    assert read_sidecar(copied / "checkpoints/step-00000014").step == 14


@pytest.mark.parametrize(("length", "steps"), [("steps = 12", 12), ("tokens = {tokens}", 12), ("steps = 14", 14)])
def test_a_run_is_resumed_with_a_config_file_that_says_its_length(interrupted, tmp_path, length, steps):
    tokens = read_config(str(interrupted / "config.toml")).tokens
    (tmp_path / "begun.toml").write_text(length.format(tokens=tokens))
    outcome = carried_out(TrainRequest(interrupted, True, None, None, str(tmp_path / "begun.toml"), {}))
    assert outcome.step == steps


def test_a_flipped_bit_in_a_checkpoint_is_passed_over_with_a_message(train, interrupted, finished, curve):
    file = interrupted / "checkpoints/step-00000008/resume/optimizer.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    shutil.copytree(interrupted / "checkpoints/step-00000008", interrupted / "checkpoints/step-00000004")
    _rename_step(interrupted / "checkpoints/step-00000004", 4)
    file.write_bytes(bytes(content))
    notes = Notes()
    train(interrupted, resume=True, view=notes)
    assert "passed over" in notes.lines[0]
    assert "resume/optimizer.safetensors: expected sha256" in notes.lines[0]
    assert "step-00000004" in notes.lines[1]


def _rename_step(path, step):
    """Pretend that a checkpoint is of another step, hashes and all."""
    import hashlib

    state = json.loads((path / "resume/state.json").read_text())
    (path / "resume/state.json").write_text(json.dumps({**state, "step": step}))
    sidecar = json.loads((path / "conform.json").read_text())
    sidecar["step"] = step
    sidecar["trainer"]["resume"]["resume/state.json"] = hashlib.sha256(
        (path / "resume/state.json").read_bytes()
    ).hexdigest()
    (path / "conform.json").write_text(json.dumps(sidecar))


@pytest.mark.parametrize("harm", ["no sidecar", "truncated", "missing file", "garbled sidecar", "other step"])
def test_a_torn_checkpoint_is_never_resumed_from(train, copied, finished, harm):
    (copied / "complete.json").unlink()
    path = copied / "checkpoints/step-00000012"
    if harm == "no sidecar":
        (path / "conform.json").unlink()
    elif harm == "truncated":
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:1000])
    elif harm == "missing file":
        (path / "resume/optimizer.safetensors").unlink()
    elif harm == "garbled sidecar":
        (path / "conform.json").write_text("{")
    else:
        path.rename(path.with_name("step-00000013"))
    notes = Notes()
    assert train(copied, resume=True, view=notes).step == 12
    assert "passed over" in notes.lines[0]
    assert same(weights(copied), weights(finished)), "it did not go on from the one before"


def test_a_run_whose_checkpoints_are_all_torn_asks_for_a_decision(train, interrupted):
    folder = interrupted / "checkpoints"
    for path in folder.iterdir():
        (path / "model.safetensors").write_bytes(b"gone")
    before = sorted(path.name for path in interrupted.rglob("*"))
    with pytest.raises(TrainError, match=r"holds no checkpoint that can be resumed from \(1 passed .* remove that"):
        train(interrupted, resume=True)
    assert sorted(path.name for path in interrupted.rglob("*")) == before
    shutil.rmtree(folder)
    assert train(interrupted, resume=True).step == 12


def test_a_checkpoint_that_names_foreign_files_does_not_have_them_opened(interrupted):
    path = max((interrupted / "checkpoints").iterdir())
    sidecar = json.loads((path / "conform.json").read_text())
    sidecar["trainer"]["resume"] |= {"/etc/passwd": "0" * 64}
    (path / "conform.json").write_text(json.dumps(sidecar))
    (torn,) = CheckpointStore(interrupted).newest().torn
    assert "files names '/etc/passwd', which lies outside the checkpoint" in torn.reason


def test_what_a_killed_save_left_behind_is_removed(train, interrupted):
    left = interrupted / "checkpoints/.step-00000012.tmp"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    train(interrupted, resume=True)
    assert not left.exists()


def test_a_link_in_the_place_of_a_save_is_not_followed(train, interrupted, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (interrupted / "checkpoints/.step-00000012.tmp").symlink_to(tmp_path / "elsewhere")
    train(interrupted, resume=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert not (interrupted / "checkpoints/step-00000012").is_symlink()


def test_a_checkpoint_of_another_run_is_refused(train, interrupted, tmp_path, data):
    other = tmp_path / "other"
    train(other, contract="ternary", steps=8)
    shutil.rmtree(interrupted / "checkpoints")
    shutil.copytree(other / "checkpoints", interrupted / "checkpoints")
    with pytest.raises(TrainError, match=r"its contract has digest .* belongs to another run"):
        train(interrupted, resume=True)


def test_resuming_with_another_contract_is_refused(interrupted, contracts):
    with pytest.raises(TrainError, match="was begun with contract dense"):
        carried_out(TrainRequest(interrupted, True, str(contracts / "ternary.toml"), None, None, {}))


def test_resuming_on_other_data_is_refused(train, interrupted, data, tmp_path):
    moved = shutil.copytree(data, tmp_path / "moved")
    request = TrainRequest(interrupted, True, None, moved, None, {})
    assert carried_out(request).step == 12
    manifest = (moved / "manifest.json").read_text()
    (moved / "manifest.json").write_text(manifest.replace('"documents": ', '"documents": 1', 1))
    with pytest.raises(TrainError, match="data digest is"):
        carried_out(request)


def test_a_changed_tokenizer_is_refused(train, interrupted):
    (interrupted / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(TrainError, match=r"tokenizer\.model: tokenizer digest is"):
        train(interrupted, resume=True)


def test_a_tokenizer_that_did_not_make_the_shards_is_refused(train, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    (copy / "tokenizer.model").write_bytes(b"another")
    with pytest.raises(TrainError, match=r"tokenizer\.model: sha256 .* but the shards were made with"):
        train(tmp_path / "run", source=copy)
    assert not (tmp_path / "run").exists()


def test_a_vocabulary_of_another_size_is_refused(data, tmp_path):
    with pytest.raises(TrainError, match="expects 2048, 1, 2: train the tokenizer with --vocab 2048"):
        carried_out(TrainRequest(tmp_path / "run", False, "nano", data, None, SHORT))


def test_a_flipped_bit_in_a_shard_is_refused_by_name(train, data, tmp_path):
    copy = shutil.copytree(data, tmp_path / "data")
    shard = copy / "train-00001.bin"
    shard.write_bytes(bytes([shard.read_bytes()[0] ^ 1]) + shard.read_bytes()[1:])
    with pytest.raises(ConformError, match=r"train-00001\.bin: changed since it was built"):
        train(tmp_path / "run", source=copy)


def test_an_out_folder_that_holds_a_run_is_refused(train, copied):
    with pytest.raises(TrainError, match="go on with --resume"):
        train(copied)


def test_an_out_folder_that_holds_something_else_is_refused(train, tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(TrainError, match="holds other files"):
        train(tmp_path)


def test_resuming_what_is_no_run_is_refused(train, tmp_path):
    with pytest.raises(TrainError, match="holds no run"):
        train(tmp_path, resume=True)


@pytest.mark.parametrize(("name", "value"), [("lr", 1.0), ("batch", 4), ("seed", 9), ("dtype", "bf16")])
def test_a_setting_that_changes_the_numbers_is_refused_on_resume(train, interrupted, name, value):
    with pytest.raises(TrainError, match=f"--{name}: was"):
        train(interrupted, resume=True, **{name: value})


def test_a_loss_that_is_no_number_stops_with_step_and_last_checkpoint(train, tmp_path):
    def poisoned(model, optimizer, tokens, step, config, world):
        result = train_step(model, optimizer, tokens, step, config, world)
        return dataclasses.replace(result, loss=float("nan")) if step == 9 else result

    with pytest.raises(TrainError, match=r"step 10: the loss is nan .*last good checkpoint is .*step-00000008"):
        train(tmp_path / "run", routines=Routines(step=poisoned))
    assert train(tmp_path / "run", resume=True).step == 12


def test_a_diverging_run_stops(train, tmp_path):
    with pytest.raises(TrainError, match="there is no checkpoint yet"):
        train(tmp_path / "run", lr=1e30, clip=0.0, warmup=0.0, save_every=100)


def test_an_evaluation_that_fails_does_not_cost_the_training_before_it(train, tmp_path):
    def out_of_memory(*_):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        train(tmp_path / "run", routines=Routines(evaluate=out_of_memory), eval_every=4)
    assert read_sidecar(tmp_path / "run/checkpoints/step-00000004").step == 4


def test_all_models_train(train, tmp_path, curve):
    for contract in ("ternary", "bitnet"):
        outcome = train(tmp_path / contract, contract=contract, dtype="bf16", steps=20)
        losses = [record["loss"] for record in curve(tmp_path / contract) if record["kind"] == "step"]
        assert losses[-1] < losses[0] - 0.5, contract
        assert outcome.held_out.unigram_perplexity > 50


def test_a_world_of_one_agrees_with_itself():
    world = World(0, 1, torch.device("cpu"))
    assert world.sums([1.5, 2.0]) == [1.5, 2.0]
    assert world.agree("yes") == "yes"
    assert world.all_well(True)
    assert not world.all_well(False)
