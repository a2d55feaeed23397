import dataclasses
import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conform.contract.finding import Finding
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.codec import Codec
from conform.core.errors import CheckpointError, ExportError, PluginError
from conform.core.export import run as export_module
from conform.core.export.plan import plan_export
from conform.core.export.policy import TypeOverride
from conform.core.export.run import run_export
from conform.core.export.transform import permute_qk
from conform.core.files.partial import PartialFile
from conform.core.gguf.read import read_gguf
from conform.core.gguf.seal import SEAL_KEYS
from conform.core.i2_s.ternary import effective
from conform.core.metadata import OwnedWriter, string
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify import verify_file


@pytest.fixture
def plan(registry, tmp_path):
    def run(folder, contract, quant, name=None, **options):
        opened = open_checkpoint(folder)
        target = tmp_path / (name or f"{quant}.gguf")
        return plan_export(opened, contract, read_vocabulary(opened.tokenizer_path), registry, quant, target, **options)

    return run


@pytest.fixture
def export(plan):
    return lambda *arguments, **options: run_export(plan(*arguments, **options))


def break_quantizer(plan, **methods):
    """The plan with a q8_0 of which methods are replaced."""

    def swap(tensor):
        if tensor.codec.name != "q8_0":
            return tensor
        kind = type("Broken", (type(tensor.codec.quantizer),), {n: staticmethod(m) for n, m in methods.items()})
        return dataclasses.replace(tensor, codec=Codec(kind(), tensor.codec.owner))

    return dataclasses.replace(plan, tensors=tuple(swap(tensor) for tensor in plan.tensors))


@pytest.mark.parametrize("quant", ["f32", "f16", "bf16", "q8_0", "i2_s", "tq2_0"])
def test_every_export_conforms(export, checkpoint, micro, registry, quant):
    report = export(checkpoint, micro, quant)
    assert verify_file(report.path, registry).findings == ()
    assert verify_file(report.path, registry, micro).findings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"tied_embeddings": False},
        {"rope_dim": 16},
        {"architecture": "bitnet-b1.58", "linear": "ternary", "sub_norms": True},
        {"sub_norms": True},
        {"layers": 1, "heads": 6, "kv_heads": 3, "head_dim": 64, "ffn": 384},
    ],
    ids="+".join,
)
def test_every_kind_of_model_conforms(export, make_checkpoint, micro, registry, tmp_path, changes):
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, **changes))
    folder = make_checkpoint(tmp_path / "variant", contract)
    report = export(folder, contract, "i2_s")
    assert verify_file(report.path, registry).findings == ()
    names = set(read_gguf(report.path).tensors)
    assert ("output.weight" in names) is not contract.model.tied_embeddings
    assert ("blk.0.ffn_sub_norm.weight" in names) is contract.model.sub_norms


def test_only_the_rotary_part_of_a_head_is_permuted(export, make_checkpoint, micro, tmp_path):
    contract = dataclasses.replace(micro, model=dataclasses.replace(micro.model, rope_dim=16))
    folder = make_checkpoint(tmp_path / "partial", contract)
    file = read_gguf(export(folder, contract, "f32").path)
    source = open_checkpoint(folder).read("model.layers.0.self_attn.k_proj.weight")
    written = file.packed("blk.0.attn_k.weight").view("<f4").reshape(64, 256)
    assert np.array_equal(written, permute_qk(source, 2, 16))
    assert np.array_equal(written[16:32], source[16:32])


def test_rotary_rows_are_permuted_and_all_others_are_not(export, checkpoint, micro):
    file = read_gguf(export(checkpoint, micro, "f32").path)
    source = open_checkpoint(checkpoint)

    def written(name):
        return file.packed(name).view("<f4").reshape(file.tensors[name].shape)

    q, k = (source.read(f"model.layers.1.self_attn.{part}_proj.weight") for part in "qk")
    assert np.array_equal(written("blk.1.attn_q.weight"), permute_qk(q, micro.model.heads))
    assert np.array_equal(written("blk.1.attn_k.weight"), permute_qk(k, micro.model.kv_heads))
    assert np.array_equal(written("blk.0.ffn_gate.weight"), source.read("model.layers.0.mlp.gate_proj.weight"))


def test_a_ternary_contract_is_packed_without_loss(export, ternary_checkpoint, micro_ternary, registry):
    report = export(ternary_checkpoint, micro_ternary, "i2_s")
    linear = [tensor for tensor in report.tensors if tensor.plan.spec.storage_class == "linear"]
    assert len(linear) == 14
    assert all(tensor.cost.relative_error == 0 for tensor in linear)
    file = read_gguf(report.path)
    decoded = registry.quantizers["i2_s"].dequantize(file.packed("blk.0.ffn_up.weight"), (512, 256))
    latent = open_checkpoint(ternary_checkpoint).read("model.layers.0.mlp.up_proj.weight")
    assert np.array_equal(decoded, effective(latent))


def test_a_float_model_in_i2_s_says_what_it_cost(export, checkpoint, micro):
    report = export(checkpoint, micro, "i2_s")
    assert all(0.3 < t.cost.relative_error < 0.7 for t in report.tensors if t.plan.spec.storage_class == "linear")


@pytest.mark.parametrize("quant", ["f16", "q8_0", "i2_s"])
def test_the_same_input_gives_the_same_bytes(export, checkpoint, micro, monkeypatch, quant):
    contents = []
    for threads in ("1", "3", "3"):
        monkeypatch.setenv("CONFORM_THREADS", threads)
        report = export(checkpoint, micro, quant, name=f"{threads}.gguf")
        contents.append((report.sha256, report.path.read_bytes()))
    assert len(set(contents)) == 1


def test_the_report_is_true(export, checkpoint, micro):
    import hashlib

    report = export(checkpoint, micro, "q8_0")
    content = report.path.read_bytes()
    assert (len(content), hashlib.sha256(content).hexdigest()) == (report.size, report.sha256)
    file = read_gguf(report.path)
    for tensor in report.tensors:
        packed = file.packed(tensor.plan.spec.gguf_name)
        assert hashlib.sha256(packed).hexdigest() == tensor.sha256


def test_progress_names_each_tensor_in_order(plan, checkpoint, micro):
    made = plan(checkpoint, micro, "f16")
    done = []
    run_export(made, done.append)
    assert done == [tensor.spec.gguf_name for tensor in made.tensors]


@pytest.mark.parametrize("quant", ["f16", "i2_s"])
def test_a_nan_in_the_last_tensor_is_found_before_any_work(plan, checkpoint, micro, quant):
    weights = load_file(checkpoint / "model.safetensors")
    weights["model.norm.weight"][17] = np.nan
    save_file(weights, checkpoint / "model.safetensors")
    (checkpoint / "conform.json").unlink()
    done = []
    made = plan(checkpoint, micro, quant)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight: the value at \[17\] is nan"):
        run_export(made, done.append)
    assert done == []
    assert not made.target.exists()


def test_a_changed_checkpoint_is_refused(plan, checkpoint, micro):
    path = checkpoint / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    made = plan(checkpoint, micro, "f16")
    with pytest.raises(CheckpointError, match="the file has changed"):
        run_export(made)


@pytest.mark.parametrize("sidecar", [True, False], ids=["sidecar", "bare"])
@pytest.mark.parametrize("quant", ["f16", "q8_0"])
def test_a_checkpoint_that_changes_meanwhile_is_refused(plan, checkpoint, micro, quant, sidecar):
    path = checkpoint / "model.safetensors"
    if not sidecar:
        (checkpoint / "conform.json").unlink()
    made = plan(checkpoint, micro, quant)
    before = sorted(os.listdir(made.target.parent))

    def rewrite(name):
        weights = load_file(path)
        weights["model.norm.weight"] += 1
        save_file(weights, path)

    with pytest.raises(CheckpointError, match=r"changed"):
        run_export(made, rewrite)
    assert sorted(os.listdir(made.target.parent)) == before


def test_a_quantizer_that_rewrites_the_checkpoint_is_noticed(plan, checkpoint, micro):
    path = checkpoint / "model.safetensors"
    (checkpoint / "conform.json").unlink()
    made = plan(checkpoint, micro, "q8_0")
    original = next(tensor.codec.quantizer for tensor in made.tensors if tensor.codec.name == "q8_0")

    def quantize(values, importance=None):
        with path.open("r+b") as file:
            file.seek(-4, os.SEEK_END)
            file.write(b"\0\0\0\0")
        return original.quantize(values, importance)

    with pytest.raises(CheckpointError, match=r"changed while it was read, from digest \w{16}… to \w{16}…"):
        run_export(break_quantizer(made, quantize=quantize))
    assert not made.target.exists()


def wrong_size(values, importance=None):
    return np.zeros(3, np.uint8)


def test_a_broken_quantizer_is_named_and_nothing_stays_behind(plan, checkpoint, micro, tmp_path):
    made = break_quantizer(plan(checkpoint, micro, "q8_0"), quantize=wrong_size)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(
        PluginError, match=r"blk\.0\.attn_q\.weight: quantizer q8_0 of gguf-conform .* returned 3 bytes"
    ):
        run_export(made)
    assert sorted(os.listdir(tmp_path)) == before


def counting(plan, stop_after=None):
    """The plan with a q8_0 that counts its calls, and raises KeyboardInterrupt after some of them."""
    calls, lock = [], threading.Lock()
    original = next(tensor.codec.quantizer for tensor in plan.tensors if tensor.codec.name == "q8_0")

    def quantize(values, importance=None):
        with lock:
            if stop_after is not None and len(calls) >= stop_after:
                raise KeyboardInterrupt
            calls.append(values.shape)
        return original.quantize(values, importance)

    changed = break_quantizer(plan, quantize=quantize)
    for tensor in changed.tensors:
        if tensor.codec.name == "q8_0":
            type(tensor.codec.quantizer).__repr__ = lambda self: "q8_0"
    return changed, calls


def interrupted(plan, after):
    changed, calls = counting(plan, after)
    with pytest.raises(KeyboardInterrupt):
        run_export(changed)
    assert len(calls) == after
    return plan


def test_an_interrupt_leaves_the_older_file_alone(plan, checkpoint, micro):
    made = plan(checkpoint, micro, "q8_0")
    made.target.write_bytes(b"GGUF old")
    interrupted(made, 3)
    assert made.target.read_bytes() == b"GGUF old"


def test_an_interrupted_export_is_taken_up_where_it_was(plan, export, checkpoint, micro, tmp_path):
    expected = export(checkpoint, micro, "q8_0", name="expected.gguf")
    made = plan(checkpoint, micro, "q8_0")
    interrupted(made, 5)
    again, calls = counting(made)
    report = run_export(again)
    assert len(calls) == 14 - 5
    assert report.sha256 == expected.sha256
    assert [tensor.cost for tensor in report.tensors] == [tensor.cost for tensor in expected.tensors]
    assert not list(tmp_path.glob(".*"))


def test_a_tensor_that_changed_meanwhile_is_done_again(plan, export, checkpoint, micro):
    expected = export(checkpoint, micro, "q8_0", name="expected.gguf")
    made = interrupted(plan(checkpoint, micro, "q8_0"), 5)
    with made.target.with_name(".q8_0.gguf.partial").open("r+b") as file:
        file.seek(len(made.header()) + made.tensors[2].offset)
        file.write(b"rotten")
    again, calls = counting(made)
    assert run_export(again).sha256 == expected.sha256
    assert len(calls) == 14 - 4


def test_another_plan_takes_nothing_up(plan, export, checkpoint, micro):
    overrides = [TypeOverride("token_embd", "bf16")]
    expected = export(checkpoint, micro, "q8_0", name="expected.gguf", overrides=overrides)
    interrupted(plan(checkpoint, micro, "q8_0"), 5)
    again, calls = counting(plan(checkpoint, micro, "q8_0", overrides=overrides))
    assert run_export(again).sha256 == expected.sha256
    assert len(calls) == 14


@pytest.mark.parametrize("journal", [b"", b"\xff\xfe", b"0" * 64 + b"\nnonsense\n[1, 2]\n"])
def test_a_journal_that_is_damaged_is_no_obstacle(plan, checkpoint, micro, journal, registry):
    made = interrupted(plan(checkpoint, micro, "q8_0"), 5)
    path = made.target.with_name(".q8_0.gguf.journal")
    if journal:
        path.write_bytes(path.read_bytes().split(b"\n")[0] + journal[64:] if b"nonsense" in journal else journal)
    else:
        path.unlink()
    again, _ = counting(made)
    assert verify_file(run_export(again).path, registry).findings == ()


def test_a_pipe_in_the_place_of_the_journal_is_refused_and_not_waited_for(plan, checkpoint, micro):
    made = plan(checkpoint, micro, "q8_0")
    journal = made.target.with_name(".q8_0.gguf.journal")
    os.mkfifo(journal)
    with pytest.raises(ExportError, match="a pipe stands in the place of this file"):
        run_export(made)
    assert journal.is_fifo()
    assert not made.target.exists()


def test_a_hard_link_in_the_place_of_the_journal_is_not_written_through(plan, checkpoint, micro, tmp_path):
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    made = plan(checkpoint, micro, "q8_0")
    os.link(precious, made.target.with_name(".q8_0.gguf.journal"))
    run_export(made)
    assert precious.read_bytes() == b"precious"


def test_bytes_that_change_on_the_disk_are_noticed(plan, checkpoint, micro, monkeypatch):
    class Rotten(PartialFile):
        def sync(self):
            super().sync()
            with self.path.open("r+b") as file:
                file.seek(-500, 2)
                file.write(b"\x55")

    monkeypatch.setattr(export_module, "PartialFile", Rotten)
    made = plan(checkpoint, micro, "f16")
    with pytest.raises(ExportError, match="reads back differently from what was written"):
        run_export(made)
    assert not made.target.exists()


def test_a_header_that_changes_on_the_disk_is_noticed(plan, checkpoint, micro, monkeypatch):
    class Rotten(PartialFile):
        def sync(self):
            super().sync()
            with self.path.open("r+b") as file:
                position = file.read(20000).rindex(b"blk.1.ffn_up")
                file.seek(position)
                file.write(b"blk.7")

    monkeypatch.setattr(export_module, "PartialFile", Rotten)
    made = plan(checkpoint, micro, "f16")
    with pytest.raises(ExportError, match="reads back as something other than what was planned"):
        run_export(made)


def test_a_killed_export_leaves_nothing_under_the_final_name(checkpoint, tmp_path):
    code = f"""
        import sys, time
        from conform.core.export import run as export
        from conform.core.cli import main as cli
        original = export._run_tensor
        def slow(*arguments):
            sys.stdout.write("quantizing\\n")  # at once: threads may write side by side
            sys.stdout.flush()
            time.sleep(60)
        export._run_tensor = slow
        sys.argv = ["conform", "export", {str(checkpoint)!r}, "--quant", "f16", "-o", {str(tmp_path / "x.gguf")!r}]
        cli.main()
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "quantizing\n"
    child.send_signal(signal.SIGKILL)
    child.wait(timeout=30)
    child.stdout.close()
    assert not (tmp_path / "x.gguf").exists()


def test_a_disk_that_is_full_is_one_sentence(checkpoint, tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    command = [sys.executable, "-m", "conform.core.cli", "export", str(checkpoint), "--quant", "f16"]
    result = subprocess.run(
        [*command, "-o", str(tmp_path / "x.gguf")], capture_output=True, text=True, preexec_fn=limit, check=False
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith(f"conform: {tmp_path / 'x.gguf'}: cannot be written: ")
    assert not list(tmp_path.glob("*.gguf*"))
    assert not list(tmp_path.glob(".*"))


class Meddler:
    """A metadata writer of a plugin, which contributes these keys."""

    name = "meddler"

    def __init__(self, keys):
        self._keys = keys

    def keys(self, facts):
        return self._keys


def with_writer(plan, writer):
    """The plan under a catalog that has one metadata writer more."""
    writers = {**plan.catalog.metadata_writers, "meddler": OwnedWriter(writer, "meddler 1.0")}
    catalog = Mock(wraps=plan.catalog, metadata_writers=writers)
    return dataclasses.replace(plan, catalog=catalog)


@pytest.mark.parametrize("key", ["llama.rope.scaling.type", "tokenizer.ggml.eot_token_id"])
def test_a_key_of_a_plugin_that_a_runtime_would_obey_is_refused_before_any_work(plan, checkpoint, micro, key):
    made = with_writer(plan(checkpoint, micro, "f16"), Meddler({key: string("yarn")}))
    before = sorted(os.listdir(made.target.parent))
    done = []
    with pytest.raises(ExportError, match=rf"does not conform to contract micro, and is not published: {key}"):
        run_export(made, done.append)
    assert done == []
    assert sorted(os.listdir(made.target.parent)) == before


def test_a_key_of_a_plugin_that_changes_nothing_is_written(plan, checkpoint, micro):
    made = with_writer(plan(checkpoint, micro, "f16"), Meddler({"general.author": string("me")}))
    assert read_gguf(run_export(made).path).metadata["general.author"] == "me"


@pytest.mark.parametrize("key", SEAL_KEYS)
def test_a_plugin_cannot_set_the_seal(plan, checkpoint, micro, key):
    made = with_writer(plan(checkpoint, micro, "f16"), Meddler({key: string("0" * 64)}))
    with pytest.raises(PluginError, match=rf"a metadata writer sets {key}"):
        run_export(made)


def test_a_file_that_the_verifier_refuses_is_not_published(plan, checkpoint, micro, monkeypatch):
    finding = Finding("error", "blk.0.attn_q.weight", "finite values only", "NaN or infinity in row 0")
    monkeypatch.setattr(export_module, "verify_file", lambda *arguments: Mock(findings=(finding,)))
    made = plan(checkpoint, micro, "f16")
    with pytest.raises(ExportError, match=r"is not published: blk\.0\.attn_q\.weight: expected finite values only"):
        run_export(made)
    assert not made.target.exists()
