import dataclasses
import hashlib
import json

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file

from conform.core.cli import main as cli
from conform.core.gguf.imatrix import ImportanceEntry, ImportanceMatrix, write_imatrix
from conform.core.gguf.read import read_gguf
from conform.trainer.checkpoints.huggingface import huggingface_config


@pytest.fixture
def run(monkeypatch):
    """conform with these arguments → (exit status, stdout, stderr), as a shell would see them."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["conform", *map(str, arguments)])
        result = CliRunner().invoke(_as_command(), catch_exceptions=False)
        return result.exit_code, result.stdout, result.stderr

    return call


def _as_command():
    import click

    @click.command(context_settings={"ignore_unknown_options": True, "allow_extra_args": True})
    def shell():
        cli.main()

    return shell


def test_export_writes_beside_the_checkpoint_and_says_what_it_cost(run, checkpoint):
    status, out, err = run("export", checkpoint, "--quant", "f16", "--quant", "i2_s")
    assert status == 0
    files = sorted(path.name for path in checkpoint.glob("*.gguf"))
    assert files == ["micro-f16.gguf", "micro-i2_s.gguf"]
    assert "relative error" in out
    for path in checkpoint.glob("*.gguf"):
        assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path}\n" in out
    assert f"{checkpoint / 'micro-i2_s.gguf'}: 20 tensors written" in err


def test_without_a_checkpoint_the_newest_is_taken_and_named(run, tmp_path, micro, make_checkpoint):
    newest = make_checkpoint(tmp_path / "runs" / "a" / "checkpoints" / "step-00000001", micro)
    status, _, err = run("export", "--runs", tmp_path / "runs", "--quant", "f16")
    assert status == 0
    assert f"Newest checkpoint: {newest}" in err
    assert (newest / "micro-f16.gguf").exists()


def test_a_pattern_selects_several_quantizers(run, checkpoint, tmp_path):
    status, _, _ = run("export", checkpoint, "--quant", "tq*", "--quant", "tq1_0", "-o", tmp_path / "out")
    assert status == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["micro-tq1_0.gguf", "micro-tq2_0.gguf"]


def test_a_runs_folder_leads_to_its_newest_checkpoint_which_is_named(run, tmp_path, micro, make_checkpoint):
    newest = make_checkpoint(tmp_path / "run" / "checkpoints" / "step-00000001", micro)
    status, _, err = run("export", tmp_path / "run", "--quant", "f16")
    assert status == 0
    assert f"{tmp_path / 'run'}: taking {newest}" in err
    assert (newest / "micro-f16.gguf").exists()


def test_what_does_not_fit_falls_back_or_is_left_out_and_both_are_said(run, micro, make_checkpoint, tmp_path):
    narrow = dataclasses.replace(micro, model=dataclasses.replace(micro.model, hidden=288))
    folder = make_checkpoint(tmp_path / "narrow", narrow)
    status, _, err = run("export", folder, "--quant", "iq3_s", "--dry-run")
    assert status == 2
    assert "10 tensors do not fit" in err
    status, out, _ = run("export", folder, "--quant", "tq2_0", "--fallback", "q8_0", "--dry-run")
    assert status == 0
    assert "micro-tq2_0.gguf: blk.*.attn_q, blk.*.attn_k" in out
    assert "not stored as tq2_0, because rows of 288" in out
    status, out, err = run("export", folder, "--quant", "*q?_0", "--dry-run", "--json")
    assert status == 0
    assert "tq2_0: left out: 10 tensors do not fit" in err
    assert [file["path"].rpartition("-")[2] for file in json.loads(out)["files"]] == ["q8_0.gguf"]


def test_a_dry_run_writes_nothing(run, checkpoint):
    before = sorted(checkpoint.iterdir())
    status, out, _ = run("export", checkpoint, "--quant", "i2_s", "--type", "token_embd=q8_0", "--dry-run")
    assert status == 0
    assert "bits per weight" in out
    assert "model.layers.1.mlp.down_proj.weight" in out
    assert [line.split()[4] for line in out.splitlines() if "token_embd" in line] == ["q8_0"]
    assert sorted(checkpoint.iterdir()) == before


def test_the_json_report_is_complete(run, checkpoint, micro):
    status, out, _ = run("export", checkpoint, "--quant", "q8_0", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["contract"] == {"name": "micro", "digest": micro.digest}
    (file,) = report["files"]
    assert file["bytes"] == (checkpoint / "micro-q8_0.gguf").stat().st_size
    assert len(file["tensors"]) == 20
    assert {tensor["plugin"].split()[0] for tensor in file["tensors"]} == {"gguf-conform"}
    planned = json.loads(run("export", checkpoint, "--quant", "q8_0", "--dry-run", "--json")[1])["files"][0]
    assert planned["bytes"] == file["bytes"]
    assert [t["offset"] for t in planned["tensors"]] == [t["offset"] for t in file["tensors"]]


def test_a_checkpoint_that_breaks_its_contract_is_findings_and_exit_1(run, checkpoint):
    (checkpoint / "conform.json").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    weights["extra.weight"] = np.ones(3, np.float32)
    save_file(weights, checkpoint / "model.safetensors")
    spec = checkpoint / "spec.toml"
    _write_spec(spec)
    status, out, _ = run("export", checkpoint, "--quant", "f16", "--contract", spec)
    assert status == 1
    assert "model.layers.1.mlp.up_proj.weight" in out
    assert "extra.weight" in out
    assert not list(checkpoint.glob("*.gguf"))


def _write_spec(path):
    from conform.contract.dump import dump_contract
    from conform.contract.load import load_contract

    text = dump_contract(load_contract("nano"))
    for old, new in (("hidden = 512", "hidden = 256"), ("ffn = 2048", "ffn = 512"), ("vocab = 2048", "vocab = 400")):
        text = text.replace(old, new)
    path.write_text(text)


def _lose_tokenizer(folder):
    (folder / "tokenizer.model").unlink()


def _lose_weights(folder):
    (folder / "model.safetensors").unlink()


def _empty_weights(folder):
    (folder / "model.safetensors").write_bytes(b"")


def _cut_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _flip_a_bit(folder):
    path = folder / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def _poison(folder):
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3, 4] = np.nan
    save_file(weights, folder / "model.safetensors")
    (folder / "conform.json").unlink()


def _foreign_tokenizer(folder):
    (folder / "tokenizer.model").write_bytes(b"something else")


@pytest.mark.parametrize(
    ("damage", "arguments", "message"),
    [
        (_lose_tokenizer, (), "no tokenizer.model or tokenizer.json beside the weights"),
        (_lose_weights, (), "holds neither model.safetensors nor"),
        (_empty_weights, (), "truncated"),
        (_cut_weights, (), "truncated"),
        (_flip_a_bit, (), "the file has changed"),
        (_foreign_tokenizer, (), "not a SentencePiece model"),
        (None, ("--contract", "nano"), "made under contract micro"),
        (None, ("--contract", "nope"), "nope: no such contract"),
        (None, ("--type", "output=q8_0"), "matches no tensor"),
        (None, ("--type", "q8_0"), "expected PATTERN=QUANT"),
        (None, ("--type", "token_embd=q9"), "q9: no such quantizer"),
        (None, ("--quant", "q9"), "q9: no such quantizer"),
        (None, ("--quant", "q9*"), "matches no quantizer"),
        (None, ("--imatrix", "nowhere.gguf"), "nowhere.gguf: cannot be read"),
        (None, ("--target-bpw", "1"), "the smallest mix takes"),
        (None, ("--target-bpw", "0"), "0"),
        (None, ("--ternary-scale", "optimal"), "ternarises"),
        (None, ("--effort", "huge"), "huge"),
        (None, ("-o", "/proc/nowhere/x.gguf"), "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_exit_2_and_no_file(run, checkpoint, damage, arguments, message):
    if damage:
        damage(checkpoint)
    status, out, err = run("export", checkpoint, "--quant", "q8_0", *arguments)
    assert status == 2
    assert message in err.splitlines()[-1]
    assert "Traceback" not in out + err
    assert not list(checkpoint.glob("*.gguf"))
    assert not list(checkpoint.glob(".*"))


def test_nan_weights_name_the_tensor(run, checkpoint):
    _poison(checkpoint)
    spec = checkpoint / "spec.toml"
    _write_spec(spec)
    status, _, err = run("export", checkpoint, "--quant", "q8_0", "--contract", spec)
    assert status == 2
    assert "model.layers.0.mlp.up_proj.weight: the value at [3, 4] is nan" in err


def test_an_importance_matrix_is_used_and_checked_first(run, checkpoint, micro, tmp_path):
    from conform.contract.inventory import inventory

    names = {s.gguf_name: s.shape[-1] for s in inventory(micro.model) if s.storage_class == "linear"}
    good = {name: ImportanceEntry(np.linspace(0.1, 9, cols, dtype=np.float32), 1) for name, cols in names.items()}
    write_imatrix(tmp_path / "good.gguf", ImportanceMatrix(good))
    status, out, _ = run("export", checkpoint, "--quant", "q8_0", "--imatrix", tmp_path / "good.gguf", "--json")
    assert status == 0
    tensors = {tensor["name"]: tensor for tensor in json.loads(out)["files"][0]["tensors"]}
    assert "weighted" in run("export", checkpoint, "--quant", "q8_0", "--imatrix", tmp_path / "good.gguf")[1]
    assert "weighted" not in run("export", checkpoint, "--quant", "q8_0")[1]
    weighted = tensors["blk.0.ffn_up.weight"]
    assert weighted["weighted_relative_error"] != weighted["relative_error"]
    write_imatrix(
        tmp_path / "bad.gguf", ImportanceMatrix(good | {"blk.0.ffn_up.weight": ImportanceEntry(np.ones(7), 1)})
    )
    status, _, err = run(
        "export", checkpoint, "--quant", "q8_0", "--imatrix", tmp_path / "bad.gguf", "-o", tmp_path / "n"
    )
    assert status == 2
    assert "importance of blk.0.ffn_up.weight: expected 256 values, found 7 values" in err
    assert not (tmp_path / "n").exists()


def test_a_target_gives_one_file_of_several_types(run, checkpoint):
    status, _, _ = run("export", checkpoint, "--quant", "i2_s", "--quant", "q8_0", "--target-bpw", "7")
    assert status == 0
    assert [path.name for path in checkpoint.glob("*.gguf")] == ["micro-7.00bpw.gguf"]
    types = {info.ggml_type for info in read_gguf(checkpoint / "micro-7.00bpw.gguf").tensors.values()}
    assert types == {0, 1, 8, 36}
    assert run("verify", checkpoint / "micro-7.00bpw.gguf")[0] == 0


def test_verify_compares_with_the_checkpoint(run, checkpoint, make_checkpoint, micro, tmp_path):
    run("export", checkpoint, "--quant", "f16", "-o", tmp_path / "x.gguf")
    status, out, _ = run("verify", tmp_path / "x.gguf", "--checkpoint", checkpoint)
    assert (status, "conforms to contract micro" in out) == (0, True)
    other = make_checkpoint(tmp_path / "other", micro, seed=1)
    status, out, _ = run("verify", tmp_path / "x.gguf", "--checkpoint", other)
    assert (status, "conform.checkpoint.digest" in out) == (1, True)
    status, _, err = run("verify", tmp_path / "x.gguf", "--tokenizer", checkpoint / "tokenizer.model")
    assert (status, "only together with --checkpoint" in err) == (2, True)


def test_verify_speaks_by_exit_status(run, checkpoint, tmp_path):
    run("export", checkpoint, "--quant", "f16", "-o", tmp_path / "x.gguf")
    status, out, _ = run("verify", tmp_path / "x.gguf")
    assert (status, out) == (0, f"{tmp_path / 'x.gguf'} conforms to contract micro\n")
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "x.gguf").read_bytes()[:-5000])
    status, out, _ = run("verify", tmp_path / "cut.gguf")
    assert status == 1
    assert "does not conform to contract micro" in out
    status, out, _ = run("verify", tmp_path / "cut.gguf", "--json")
    report = json.loads(out)
    assert status == 1
    assert report["conforms"] is False
    assert report["findings"][0]["severity"] == "error"
    (tmp_path / "no.gguf").write_bytes(b"no")
    status, out, err = run("verify", tmp_path / "no.gguf")
    assert (status, out) == (2, "")
    assert "not a GGUF file" in err
    assert run("verify", tmp_path / "nowhere.gguf")[0] == 2


def test_repack_there_and_back_gives_the_same_file(run, checkpoint, tmp_path):
    run("export", checkpoint, "--quant", "i2_s", "-o", tmp_path / "x86.gguf")
    assert run("repack", tmp_path / "x86.gguf", "--layout", "arm", "-o", tmp_path / "arm.gguf")[0] == 0
    status, out, _ = run("repack", tmp_path / "arm.gguf", "--layout", "x86", "-o", tmp_path / "again.gguf", "--json")
    assert status == 0
    assert json.loads(out)["known_by"] == "the file's key"
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "x86.gguf").read_bytes()
    status, _, err = run(
        "repack", tmp_path / "x86.gguf", "--from", "rows", "--layout", "arm", "-o", tmp_path / "n.gguf"
    )
    assert status == 2
    assert "contradicts" in err


def test_the_report_of_an_export_says_what_was_understood_of_a_stranger(run, checkpoint, micro):
    assert json.loads(run("export", checkpoint, "--quant", "f16", "--dry-run", "--json")[1])["inference"] is None
    (checkpoint / "conform.json").unlink()
    config = huggingface_config(micro) | {"use_cache": True}
    (checkpoint / "config.json").write_text(json.dumps(config))
    report = json.loads(run("export", checkpoint, "--quant", "f16", "--dry-run", "--json")[1])
    assert report["inference"]["digest"] == report["contract"]["digest"]
    assert {o["field"]: o["source"] for o in report["inference"]["origins"]}["model.norm_eps"] == "rms_norm_eps"
    assert [ignored["key"] for ignored in report["inference"]["ignored"]] == ["use_cache"]


def test_a_hugging_face_checkpoint_is_exported_as_it_is(run, checkpoint):
    """Shards, config.json, a tied copy of the embedding and the tables of old versions; no sidecar."""
    weights = load_file(checkpoint / "model.safetensors")
    for name in ("conform.json", "model.safetensors"):
        (checkpoint / name).unlink()
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(16, np.float32)
    shards = {name: f"model-{1 + number % 2:05}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for shard in set(shards.values()):
        save_file({name: weights[name] for name in weights if shards[name] == shard}, checkpoint / shard)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
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
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    (checkpoint / "config.json").write_text(json.dumps(config))
    status, out, _ = run("export", checkpoint, "--quant", "f16")
    assert status == 0
    assert f"{checkpoint}: llama, dense linear layers (plain); RoPE base 10000; norm eps 1e-05; output tied; " in out
    assert "rotary_emb.inv_freq" in out
    (file,) = checkpoint.glob("*.gguf")
    assert file.name == f"{checkpoint.name}-f16.gguf"
    assert run("verify", file)[0] == 0
    assert "output.weight" not in read_gguf(file).tensors
