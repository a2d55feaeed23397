import dataclasses
import json
import os
import subprocess

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conform.contract.check import TensorSeen
from conform.contract.dump import dump_contract
from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint
from conform.core.errors import CheckpointError, InputError

NORM = "model.norm.weight"
EMBEDDING = "model.embed_tokens.weight"


def shard(folder, split=3):
    """Cut a one-file checkpoint into two shards with an index."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    parts = {"a.safetensors": names[:split], "b.safetensors": names[split:]}
    for file, part in parts.items():
        save_file({name: weights[name] for name in part}, folder / file)
    weight_map = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return weights, weight_map


def bf16_file(path, bits):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [len(bits)], "data_offsets": [0, 2 * len(bits)]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + np.array(bits, "<u2").tobytes())
    return path


def test_a_folder_and_its_file_are_the_same_checkpoint(checkpoint):
    folder, file = open_checkpoint(checkpoint), open_checkpoint(checkpoint / "model.safetensors")
    assert folder.tensors == file.tensors
    assert folder.sidecar == file.sidecar is not None
    assert folder.digest == file.digest
    assert folder.tensors[NORM] == TensorSeen((256,), "F32")
    assert folder.tokenizer_path == checkpoint / "tokenizer.model"


def test_values_are_those_that_safetensors_reads(checkpoint):
    opened = open_checkpoint(checkpoint)
    for name, values in load_file(checkpoint / "model.safetensors").items():
        assert np.array_equal(opened.read(name), values)


def test_half_precision_is_widened_exactly(tmp_path):
    halves = np.array([1.5, -6e-8, 65504], np.float16)
    save_file({"w": halves}, tmp_path / "half.safetensors")
    assert np.array_equal(open_checkpoint(tmp_path / "half.safetensors").read("w"), halves.astype(np.float32))
    brain = open_checkpoint(bf16_file(tmp_path / "brain.safetensors", [0x3FC0, 0x8001, 0x7F7F]))
    assert brain.read("w").view(np.uint32).tolist() == [0x3FC00000, 0x80010000, 0x7F7F0000]


def test_shards_are_one_checkpoint(checkpoint):
    before = open_checkpoint(checkpoint).tensors
    (checkpoint / "conform.json").unlink()
    weights, _ = shard(checkpoint)
    opened = open_checkpoint(checkpoint)
    assert opened.tensors == before
    assert len(opened.files) == 2
    assert np.array_equal(opened.read(NORM), weights[NORM])


@pytest.mark.parametrize("prefix", ["model", "weights"])
def test_shards_need_no_index_when_their_names_tell_that_all_are_there(checkpoint, prefix):
    before = open_checkpoint(checkpoint).tensors
    (checkpoint / "conform.json").unlink()
    weights, _ = shard(checkpoint)
    (checkpoint / "model.safetensors.index.json").unlink()
    for number, name in enumerate(("a", "b"), 1):
        (checkpoint / f"{name}.safetensors").rename(checkpoint / f"{prefix}-0000{number}-of-00002.safetensors")
    opened = open_checkpoint(checkpoint)
    assert opened.tensors == before
    assert np.array_equal(opened.read(NORM), weights[NORM])
    (checkpoint / f"{prefix}-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"-00001-of-00002\.safetensors is missing \(1 of 2 shards\)"):
        open_checkpoint(checkpoint)


def test_the_digest_is_what_sha256sum_prints(checkpoint):
    command = "sha256sum *.safetensors | sha256sum"
    printed = subprocess.run(command, shell=True, cwd=checkpoint, capture_output=True, text=True, check=True).stdout
    assert open_checkpoint(checkpoint).digest == printed.split()[0]


def test_symbolic_links_are_followed(checkpoint, tmp_path):
    link = tmp_path / "link"
    link.mkdir()
    for path in checkpoint.iterdir():
        (link / path.name).symlink_to(path)
    assert open_checkpoint(link).digest == open_checkpoint(checkpoint).digest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m | {"ghost": "a.safetensors"}, "ghost should be in a.safetensors but is not"),
        (lambda m: {k: v for k, v in m.items() if k != NORM}, "holds model.norm.weight, which the index does not"),
        (lambda m: m | {NORM: "../b.safetensors"}, "expected a file in the same folder"),
        (lambda m: m | {NORM: "c.safetensors"}, "c.safetensors: cannot be read|b.safetensors holds model.norm.weight"),
        (lambda m: m | {NORM: 5}, "not a table"),
        (lambda m: [m], "not a table"),
        (lambda m: dict.fromkeys(map(str, range(10_001))) | {str(n): f"{n}.x" for n in range(10_001)}, "10001 shards"),
    ],
)
def test_an_index_that_is_not_true_is_refused(checkpoint, change, message):
    (checkpoint / "conform.json").unlink()
    _, weight_map = shard(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": change(weight_map)}))
    with pytest.raises(InputError, match=message):
        open_checkpoint(checkpoint)


def test_an_index_can_be_given_by_its_path(checkpoint):
    before = open_checkpoint(checkpoint)
    (checkpoint / "conform.json").unlink()
    shard(checkpoint)
    index = (checkpoint / "model.safetensors.index.json").rename(checkpoint / "model.fp32.safetensors.index.json")
    assert open_checkpoint(index).tensors == before.tensors
    (checkpoint / "a.safetensors").rename(checkpoint / "model.safetensors")
    index.rename(checkpoint / "model.safetensors.index.json")
    with pytest.raises(InputError, match=r"a\.safetensors: cannot be read"):
        open_checkpoint(checkpoint)


def test_an_index_that_is_no_object_is_refused(checkpoint):
    for content in ("[]", "5", "{", '"x"'):
        (checkpoint / "model.safetensors.index.json").write_text(content)
        with pytest.raises(InputError, match=r"index\.json"):
            open_checkpoint(checkpoint)


def test_a_changed_file_is_named(checkpoint):
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: sha256 is .* the file has changed"):
        _ = open_checkpoint(checkpoint).digest


def test_a_file_of_the_sidecar_that_is_missing_is_named(checkpoint):
    (checkpoint / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer\.model: missing"):
        open_checkpoint(checkpoint).hash_files()


def test_a_file_beside_a_sidecar_that_does_not_list_it_is_another_model(checkpoint):
    other = checkpoint / "other.safetensors"
    other.write_bytes((checkpoint / "model.safetensors").read_bytes())
    assert open_checkpoint(other).sidecar is None


def test_a_file_that_shrinks_is_an_error_and_no_crash(checkpoint):
    opened = open_checkpoint(checkpoint)
    os.truncate(checkpoint / "model.safetensors", 5000)
    for use in (opened.read, opened.check_finite):
        with pytest.raises(CheckpointError, match="was truncated"):
            use(EMBEDDING)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_path_without_weights_is_an_error(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=name):
        open_checkpoint(tmp_path / name)


def test_an_adapter_is_not_a_model(checkpoint, tmp_path):
    weights = {"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight": np.ones((2, 8), np.float32)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"is an adapter .PEFT., not a model; merge it into its base model first"):
        open_checkpoint(tmp_path / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"but adapter_model\.safetensors, an adapter .PEFT., not a model"):
        open_checkpoint(tmp_path)
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"adapter_config\.json makes this a base model with an adapter"):
        open_checkpoint(checkpoint)


SIGHTS = {
    "a GGUF file, not .* give the one that it was exported from": b"GGUF" + bytes(100),
    "a Git LFS pointer, not a safetensors checkpoint": b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
    "a pickle, .* convert it to safetensors, because conform never unpickles": b"\x80\x02}q\x00.",
    "a zip archive, .* convert it to safetensors": b"PK\x03\x04" + bytes(100),
    "a web page": b"<!doctype html><html></html>",
    "a JSON text, .* give a folder or a safetensors file": b'{"model_type": "llama"}',
}


@pytest.mark.parametrize("message", SIGHTS)
def test_what_is_something_else_is_named(tmp_path, message):
    (tmp_path / "model.safetensors").write_bytes(SIGHTS[message])
    for path in (tmp_path, tmp_path / "model.safetensors"):
        with pytest.raises(CheckpointError, match=f"model.safetensors: is {message}"):
            open_checkpoint(path)


def test_a_pipe_is_no_checkpoint(tmp_path):
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(InputError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe.safetensors")


def test_an_unknown_tensor_and_an_integer_tensor_are_not_read(tmp_path):
    save_file({"w": np.ones(3, np.int32)}, tmp_path / "model.safetensors")
    opened = open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match="no tensor v"):
        opened.read("v")
    for use in (opened.read, opened.check_finite):
        with pytest.raises(CheckpointError, match="dtype I32 holds no weights"):
            use("w")


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_found_where_it_is(tmp_path, dtype, value):
    values = np.ones((3, 5), dtype)
    save_file({"w": values}, tmp_path / "model.safetensors")
    open_checkpoint(tmp_path).check_finite("w")
    values[1, 4] = value
    save_file({"w": values}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"w: the value at \[1, 4\] is {value}"):
        open_checkpoint(tmp_path).check_finite("w")


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_last_value_is_looked_at(tmp_path, count):
    values = np.ones(count, np.float16)
    values[-1] = np.inf
    save_file({"w": values}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"\[{count - 1}\] is inf"):
        open_checkpoint(tmp_path).check_finite("w")


def test_finite_extremes_pass(tmp_path):
    open_checkpoint(bf16_file(tmp_path / "b.safetensors", [0x7F7F, 0xFF7F, 1, 0])).check_finite("w")
    with pytest.raises(CheckpointError, match=r"\[1\] is inf"):
        open_checkpoint(bf16_file(tmp_path / "b.safetensors", [0, 0x7F80])).check_finite("w")


def test_a_tied_copy_is_dropped_when_it_is_one(checkpoint):
    (checkpoint / "conform.json").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.weight"] = weights[EMBEDDING].copy()
    save_file(weights, checkpoint / "model.safetensors")
    opened = open_checkpoint(checkpoint)
    assert set(opened.tensors) - set(opened.without_tied_copy().tensors) == {"lm_head.weight"}
    weights["lm_head.weight"] = weights["lm_head.weight"].astype(np.float16)
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="differs from"):
        open_checkpoint(checkpoint).without_tied_copy()
    weights["lm_head.weight"] = weights[EMBEDDING].copy()
    weights["lm_head.weight"][-1, -1] += 1
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"differs from model\.embed_tokens\.weight"):
        open_checkpoint(checkpoint).without_tied_copy()


def test_a_tied_copy_in_another_dtype_is_one_when_its_values_are_the_same(checkpoint):
    (checkpoint / "conform.json").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    weights["lm_head.weight"] = weights[EMBEDDING].astype(np.float16)
    weights[EMBEDDING] = weights["lm_head.weight"].astype(np.float32)
    save_file(weights, checkpoint / "model.safetensors")
    assert "lm_head.weight" not in open_checkpoint(checkpoint).without_tied_copy().tensors


def test_the_file_of_a_tied_copy_stays_part_of_the_digest(checkpoint):
    (checkpoint / "conform.json").unlink()
    weights = load_file(checkpoint / "model.safetensors") | {"lm_head.weight": np.ones((2, 2), np.float32)}
    weights["lm_head.weight"] = weights[EMBEDDING].copy()
    save_file(weights, checkpoint / "model.safetensors")
    shard(checkpoint, split=1)  # sorted by name, lm_head.weight is alone in the first shard
    opened = open_checkpoint(checkpoint)
    tied = opened.without_tied_copy()
    assert tied.digest == opened.digest
    tied.check_unchanged()


def test_the_contract_is_the_sidecars(checkpoint, micro):
    assert contract_of(open_checkpoint(checkpoint), None) == micro


def test_another_contract_than_the_sidecars_is_refused(checkpoint):
    with pytest.raises(CheckpointError, match=r"made under contract micro .* not nano"):
        contract_of(open_checkpoint(checkpoint), "nano")


def test_without_a_sidecar_config_json_tells_or_the_user_must(checkpoint):
    (checkpoint / "conform.json").unlink()
    with pytest.raises(CheckpointError, match="--contract"):
        contract_of(open_checkpoint(checkpoint), None)
    assert contract_of(open_checkpoint(checkpoint), "nano").name == "nano"
    config = {
        "model_type": "llama",
        "num_hidden_layers": 2,
        "hidden_size": 256,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "intermediate_size": 512,
        "vocab_size": 400,
        "max_position_embeddings": 128,
        "tie_word_embeddings": True,
    }
    (checkpoint / "config.json").write_text(json.dumps(config))
    assert contract_of(open_checkpoint(checkpoint), None).model.ffn == 512


PACKED = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


def test_config_json_says_how_the_weights_are_stored(tmp_path):
    save_file(
        {"w.weight": np.full((2, 3), 0b10_01_00_10, np.uint8), "w.weight_scale": np.ones(1, np.float32)},
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": PACKED}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        opened = open_checkpoint(path)
        assert opened.tensors == {"w.weight": TensorSeen((8, 3), "F32")}
        assert opened.read("w.weight")[:, 0].tolist() == [1, 1, -1, -1, 0, 0, 1, 1]
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(InputError, match=r"config\.json: .*'gptq'"):
        open_checkpoint(tmp_path)


def test_a_checkpoint_of_the_trainer_is_stored_plainly_whatever_config_json_says(checkpoint):
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": PACKED}))
    assert open_checkpoint(checkpoint).form.weights == "plain"


@pytest.mark.parametrize(
    ("mode", "kind", "other"), [("online", "ternary", "dense"), ("offline", "ternary-stored", "ternary")]
)
def test_a_contract_that_reads_the_weights_otherwise_than_config_json_is_refused(
    checkpoint, tmp_path, micro, mode, kind, other
):
    (checkpoint / "conform.json").unlink()
    (checkpoint / "config.json").write_text(json.dumps({"quantization_config": PACKED | {"quantization_mode": mode}}))
    weights = load_file(checkpoint / "model.safetensors")
    if mode == "offline":
        for name in [name for name in weights if name.endswith("_proj.weight")]:
            weights[f"{name}_scale"] = np.ones(1, np.float32)
            weights[name] = np.sign(weights[name])
        save_file(weights, checkpoint / "model.safetensors")
    opened = open_checkpoint(checkpoint)
    for linear in (kind, other):
        contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, linear=linear))
        (tmp_path / f"{linear}.toml").write_text(dump_contract(contract))
    assert contract_of(opened, str(tmp_path / f"{kind}.toml")).model.linear == kind
    with pytest.raises(CheckpointError, match=f'linear = "{kind}"'):
        contract_of(opened, str(tmp_path / f"{other}.toml"))


def test_a_checkpoint_that_stays_as_it_is_has_not_changed(checkpoint):
    opened = open_checkpoint(checkpoint)
    opened.hash_files()
    opened.check_unchanged()


def test_a_header_that_moved_before_the_hash_is_a_change(checkpoint):
    (checkpoint / "conform.json").unlink()
    path = checkpoint / "model.safetensors"
    opened = open_checkpoint(checkpoint)
    weights = load_file(path)
    save_file({name: values for name, values in weights.items() if "norm" in name}, path)
    opened.hash_files()
    with pytest.raises(CheckpointError, match=r"model\.safetensors: changed while it was read; try again"):
        opened.check_unchanged()
