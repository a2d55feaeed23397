"""`conform train --compile`: compiled blocks compute what the others do, resume bit for bit, and go with FSDP2."""

import os
import shutil
import subprocess

import pytest
import torch
from safetensors.torch import load_file
from torch._inductor import config as inductor

from conform.trainer.distributed.world import join
from conform.trainer.errors import TrainError
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.request import TrainRequest, load_request

# Each forward pass has four sequences, here and in each of two processes, so that all find the kernels of the first.
SHORT = {
    "steps": 6,
    "batch": 8,
    "micro_batch": 4,
    "sequence": 32,
    "lr": 3e-3,
    "dtype": "f32",
    "save_every": 3,
    "eval_sequences": 8,
}

needs_compiler = pytest.mark.skipif(
    shutil.which(inductor.cpp.cxx[1]) is None,
    reason=f"torch.compile needs a C++ compiler: no {inductor.cpp.cxx[1]} here",
)


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """A cache of compiled kernels for this module alone, filled without helper processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("kernels")))
        patch.setattr(inductor, "compile_threads", 1)
        yield os.environ["TORCHINDUCTOR_CACHE_DIR"]
    torch.compiler.reset()


@pytest.fixture(scope="module")
def train(kernels, contracts, data):
    def run(out, *, resume=False, compiled=True):
        given = (None, None) if resume else (str(contracts / "dense.toml"), data)
        request = TrainRequest(out, resume, *given, None, {} if resume else {**SHORT, "compile": compiled})
        loaded = load_request(request)
        launch(loaded, join(loaded.settings), SilentView())
        return out

    return run


@pytest.fixture(scope="module")
def eager(tmp_path_factory, train):
    return train(tmp_path_factory.mktemp("eager") / "run", compiled=False)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory, train, kernels):
    run = train(tmp_path_factory.mktemp("compiled") / "run")
    assert any(name.endswith(".so") for _, _, names in os.walk(kernels) for name in names), "nothing was compiled"
    return run


def assert_near(run, eager, curve):
    for ours, theirs in zip(curve(run), curve(eager), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-5)


@needs_compiler
def test_a_compiled_run_is_near_the_eager_one(compiled, eager, curve):
    assert_near(compiled, eager, curve)


@needs_compiler
def test_a_compiled_run_that_was_interrupted_ends_bit_for_bit_the_same(compiled, train, curve, tmp_path):
    run = shutil.copytree(compiled, tmp_path / "run")
    (run / "complete.json").unlink()
    shutil.rmtree(run / "checkpoints/step-00000006")
    torch.compiler.reset()
    train(run, resume=True)
    assert curve(run) == curve(compiled)
    ours, theirs = (load_file(path / "checkpoints/step-00000006/model.safetensors") for path in (run, compiled))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@needs_compiler
def test_two_processes_compile_under_fsdp2(kernels, eager, torchrun, contracts, data, environment, curve, tmp_path):
    given = {"contract": contracts / "dense.toml", "data": data, "out": tmp_path / "run", **SHORT}
    options = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
    found = {"TORCHINDUCTOR_CACHE_DIR": kernels, "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    done = subprocess.run(
        torchrun(2, "train", *options, "--compile"),
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env=environment | found,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert_near(tmp_path / "run", eager, curve)


def test_without_a_compiler_no_run_is_begun(train, tmp_path, monkeypatch):
    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    with pytest.raises(TrainError, match=r"--compile needs a C\+\+ compiler"):
        train(tmp_path / "run")
    assert not (tmp_path / "run").exists()
