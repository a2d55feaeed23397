import dataclasses
import os

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import QuantizeError
from conform.core.gguf.imatrix import ImportanceEntry, ImportanceMatrix, check_imatrix, read_imatrix
from conform.trainer.errors import DataError, InputError
from conform.trainer.importance.measure import SquareSums, accumulate, load_model, merge, read_partial, write_partial
from conform.trainer.model.model import Llama

SPEC = dataclasses.replace(
    load_contract("nano").model, layers=2, hidden=64, heads=4, kv_heads=1, head_dim=8, rope_dim=8, ffn=96, vocab=50
)
BATCHES = [np.random.default_rng(i).integers(0, SPEC.vocab, (3, 11)) for i in range(4)]


@pytest.fixture(scope="module")
def model():
    model = Llama(SPEC)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(model.initial(name, 1) * 3)
    return model.eval()


def measured(model, batches):
    sums = SquareSums.zeros(SPEC)
    for _ in accumulate(model, batches, sums):
        pass
    return sums


def matrix(**sums):
    return ImportanceMatrix({name: ImportanceEntry(np.float32(v), 2.0) for name, v in sums.items()}, ("a",), 1, 8)


@pytest.fixture
def stored(tmp_path):
    """A model of stored ternary weights and its checkpoint; `spoil` makes one of its matrices something else."""

    def make(spoil=False):
        spec = dataclasses.replace(SPEC, linear="ternary-stored")
        rng = np.random.default_rng(5)
        weights = {each.name: rng.standard_normal(each.shape).astype(np.float32) for each in inventory(spec)}
        for each in inventory(spec):
            if each.storage_class == "linear":
                weights[each.name] = rng.integers(-1, 2, each.shape).astype(np.float32) * np.float32(0.3)
        if spoil:
            weights["model.layers.1.mlp.up_proj.weight"][0, 0] = 0.1
        save_file(weights, tmp_path / "model.safetensors")
        return load_model(open_checkpoint(tmp_path), spec, torch.device("cpu"))

    return make


def test_stored_ternary_weights_are_measured_as_they_are(stored):
    assert measured(stored(), BATCHES[:1]).chunks == 3
    with pytest.raises(QuantizeError, match=r"model\.layers\.1\.mlp\.up_proj\.weight: not ternary"):
        stored(spoil=True)


def test_every_linear_layer_is_measured(model):
    written = measured(model, BATCHES).matrix("text", 11, {})
    assert check_imatrix(written, inventory(SPEC)) == []
    assert written.chunk_count == 12
    assert all(entry.count == 4 * 33 for entry in written.entries.values())


def test_the_sums_are_those_of_the_layer_inputs(model):
    inputs = []
    down = model.model.layers[1].mlp.down_proj
    handle = down.register_forward_pre_hook(lambda _, arguments: inputs.append(arguments[0].double()))
    with torch.no_grad():
        model(torch.from_numpy(BATCHES[0]))
    handle.remove()
    expected = inputs[0].flatten(0, -2).square().sum(dim=0).numpy()
    assert np.array_equal(measured(model, BATCHES[:1]).sums["blk.1.ffn_down.weight"], expected)


def test_queries_keys_and_values_share_their_input(model):
    sums = measured(model, BATCHES).sums
    assert np.array_equal(sums["blk.0.attn_q.weight"], sums["blk.0.attn_v.weight"])
    assert not np.array_equal(sums["blk.0.attn_q.weight"], sums["blk.1.attn_q.weight"])


def test_an_interrupted_measurement_goes_on_exactly(model, tmp_path):
    path = tmp_path / "partial"
    write_partial(path, measured(model, BATCHES[:2]), {"data": "x"})
    resumed = read_partial(path, SPEC, {"data": "x"})
    for _ in accumulate(model, BATCHES[2:], resumed):
        pass
    whole = measured(model, BATCHES)
    assert (resumed.tokens, resumed.chunks) == (whole.tokens, whole.chunks)
    assert all(np.array_equal(resumed.sums[name], whole.sums[name]) for name in whole.sums)


@pytest.mark.parametrize("spoil", ["other data", "no file", "garbage"])
def test_a_partial_that_does_not_fit_is_not_used(model, tmp_path, spoil):
    path = tmp_path / "partial"
    if spoil == "other data":
        write_partial(path, measured(model, BATCHES[:1]), {"data": "y"})
    elif spoil == "garbage":
        path.write_bytes(b"\xff" * 100)
    assert read_partial(path, SPEC, {"data": "x"}).chunks == 0


def test_a_pipe_in_the_place_of_a_partial_is_refused_and_not_waited_for(model, tmp_path):
    path = tmp_path / "partial"
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe, not a regular file"):
        read_partial(path, SPEC, {"data": "x"})
    with pytest.raises(DataError, match="a pipe stands in the place of this file"):
        write_partial(path, measured(model, BATCHES[:1]), {"data": "x"})


def test_a_partial_has_ordinary_permissions(model, tmp_path):
    (tmp_path / "other").touch()
    write_partial(tmp_path / "partial", measured(model, BATCHES[:1]), {"data": "x"})
    assert (tmp_path / "partial").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_merging_counts_both():
    merged = merge([matrix(a=[1, 2], b=[3]), matrix(a=[10, 20], b=[30])])
    assert merged.entries["a"].sums.tolist() == [11, 22]
    assert merged.entries["a"].weights.tolist() == [2.75, 5.5]
    assert (merged.chunk_count, merged.chunk_size, merged.datasets) == (2, 8, ("a",))


@pytest.mark.parametrize("other", [matrix(a=[1, 2]), matrix(a=[1], b=[3]), matrix(a=[1, 2], c=[3])])
def test_matrices_of_different_models_do_not_merge(other):
    with pytest.raises(DataError, match="different models"):
        merge([matrix(a=[1, 2], b=[3]), other])


def test_show_says_what_is_covered(tmp_path):
    from conform.core.gguf.imatrix import write_imatrix
    from conform.trainer.cli.imatrix import imatrix

    write_imatrix(tmp_path / "m.gguf", matrix(a=[1, 0], b=[3]))
    shown = CliRunner().invoke(imatrix, ["show", str(tmp_path / "m.gguf")], catch_exceptions=False).output
    assert "1 of 2 tensors are covered in full" in shown
    assert read_imatrix(tmp_path / "m.gguf").entries["b"].sums.tolist() == [3]


@pytest.mark.parametrize("spoil", ["half precision", "no counts", "a count in words", "a count of 5,000 digits"])
def test_a_hostile_partial_is_not_used(model, tmp_path, spoil):
    path = tmp_path / "partial"
    sums = measured(model, BATCHES[:1]).sums
    counts = {
        "tokens": "5",
        "chunks": {"a count in words": "one", "a count of 5,000 digits": "1" * 5000}.get(spoil, "1"),
    }
    if spoil == "half precision":
        save_file({name: total.astype("f2") for name, total in sums.items()}, path, {"data": "x", **counts})
    else:
        save_file(sums, path, {"data": "x", **({} if spoil == "no counts" else counts)})
    assert read_partial(path, SPEC, {"data": "x"}).chunks == 0
