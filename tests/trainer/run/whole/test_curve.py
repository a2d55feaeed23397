"""A change in training is noticed: two tiny runs have the curves that are committed beside this file.

After a change that is meant to alter them, write them anew: `python tests/trainer/run/whole/test_curve.py` does.
"""

import dataclasses
import hashlib
import json
import platform
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from conform.contract.dump import dump_contract
from conform.contract.load import load_contract
from conform.trainer.data.manifest import Manifest, Recipe, Split
from conform.trainer.data.shards import ShardWriter
from conform.trainer.distributed.world import join
from conform.trainer.run.launch import launch
from conform.trainer.run.live import SilentView
from conform.trainer.run.metrics import read_metrics
from conform.trainer.run.request import TrainRequest, load_request

COMMITTED = Path(__file__).with_name("curve.json")
SETTINGS = {"steps": 40, "batch": 8, "sequence": 32, "lr": 1e-2, "dtype": "f32", "eval_every": 20, "threads": 1}
# Elsewhere sums have another order; ternary codes near a threshold then flip.
BANDS = {"dense": 1e-3, "ternary": 3e-2}


def platform_class():
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} torch {torch.__version__.split('+')[0]}"


def learnable_tokens(count, vocab):
    """A text that is the same everywhere: each token is mostly a function of the one before it."""
    state = np.random.RandomState(7).randint(0, 64, count)
    tokens = np.zeros(count, np.uint16)
    for i in range(1, count):
        tokens[i] = 11 * state[i] if state[i] < 8 else (3 * int(tokens[i - 1]) + 7) % vocab
    return tokens


def shards(folder):
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(b"no text is ever decoded")
    splits = {}
    for name, count in (("train", 9000), ("held_out", 700)):
        writer = ShardWriter(folder, name, 4000, "uint16")
        writer.append(learnable_tokens(count, 97))
        splits[name] = Split(1, 3 * count, count, writer.finish())
    digest = hashlib.sha256(b"no text is ever decoded").hexdigest()
    recipe = Recipe(0.1, 4000, 1, "text")
    manifest = Manifest(1, "uint16", 97, 1, 2, digest, digest, splits["train"], splits["held_out"], 4.0, recipe, {}, ())
    (folder / "manifest.json").write_text(manifest.to_json())
    return folder


def curve(folder, linear):
    nano = load_contract("nano")
    small = {"hidden": 64, "heads": 8, "head_dim": 8, "rope_dim": 8, "ffn": 96, "vocab": 97, "context": 32}
    contract = dataclasses.replace(nano, model=dataclasses.replace(nano.model, linear=linear, **small))
    (folder / "contract.toml").write_text(dump_contract(contract))
    request = TrainRequest(
        folder / "run", False, str(folder / "contract.toml"), shards(folder / "data"), None, SETTINGS
    )
    threads = torch.get_num_threads()
    loaded = load_request(request)
    launch(loaded, join(loaded.settings), SilentView())
    torch.set_num_threads(threads)
    return [[record["kind"], record["step"], record["loss"]] for record in read_metrics(folder / "run")]


@pytest.mark.parametrize("linear", ["dense", "ternary"])
def test_the_curve_is_the_committed_one(linear, tmp_path):
    committed = json.loads(COMMITTED.read_text())
    expected = [[kind, step, float.fromhex(loss)] for kind, step, loss in committed[linear]]
    found = curve(tmp_path, linear)
    if committed["platform"] == platform_class():
        assert found == expected
    for (kind, step, loss), (kind_before, step_before, loss_before) in zip(found, expected, strict=True):
        assert (kind, step) == (kind_before, step_before)
        assert loss == pytest.approx(loss_before, rel=BANDS[linear]), f"{kind} {step}"


def test_the_committed_curves_fall():
    for linear in BANDS:
        losses = [float.fromhex(loss) for _, _, loss in json.loads(COMMITTED.read_text())[linear]]
        assert losses[-1] < losses[0] - 0.5


def write():
    found = {"platform": platform_class()}
    for linear in BANDS:
        with tempfile.TemporaryDirectory() as folder:
            found[linear] = [[kind, step, loss.hex()] for kind, step, loss in curve(Path(folder), linear)]
    COMMITTED.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    write()
