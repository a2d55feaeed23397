"""Checkpoints that transformers wrote, from export to verdict: conform says of each what transformers computes."""

import json
import shutil

import pytest
import torch
from click.testing import CliRunner

from conform.core.cli.export import export
from conform.core.verify.verify import verify_file
from conform.parity.judgement import judge_runtime
from conform.parity.questions.prompts import HOSTILE_TEXTS
from conform.parity.questions.sequences import Scope

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SCOPE = Scope(max_tokens=7, forced_positions=8, longest=128, texts=HOSTILE_TEXTS[1:6])
SIZES = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 384,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 256,
    "initializer_range": 0.05,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write(folder, family, **settings):
    """A checkpoint of random weights, with norms that are not 1, as transformers writes it."""
    torch.manual_seed(1)
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**SIZES, **settings))
    for name, values in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(values, 0.5, 1.5)
    model.save_pretrained(folder)


def quantised_by(folder, **settings):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {**settings, "modules_to_not_convert": ["lm_head"]}}
    path.write_text(json.dumps(config))


def llama(folder):
    write(folder, "Llama", rms_norm_eps=1e-5)


def mistral(folder):
    write(folder, "Mistral", sliding_window=None)


def bitnet_online(folder):
    write(folder, "BitNet", tie_word_embeddings=True)
    quantised_by(folder, quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online")


@pytest.mark.parametrize(
    ("make", "quant"),
    [(llama, "q8_0"), (mistral, "f16"), (bitnet_online, "i2_s")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_strangers_checkpoint_conforms(make, quant, tmp_path, tokenizer_model, goref, registry):
    make(tmp_path)
    shutil.copy(tokenizer_model, tmp_path / "tokenizer.model")
    exported = CliRunner().invoke(export, [str(tmp_path), "--quant", quant])
    assert exported.exit_code == 0, exported.output
    (gguf,) = tmp_path.glob("*.gguf")
    assert verify_file(gguf, registry).conforms
    verdict = judge_runtime(gguf, goref, registry=registry, scope=SCOPE)
    assert verdict.passed, [(rung.rung, rung.reason) for rung in verdict.rungs if not rung.passed]
    rungs = {rung.rung: rung for rung in verdict.rungs}
    assert rungs["source"].compared == 128 + 2 * 32
    assert rungs["source"].status == rungs["implementation"].status == "pass"
    assert verdict.receipt["source"]["versions"]["transformers"] == transformers.__version__
