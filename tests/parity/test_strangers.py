"""Checkpoints that transformers wrote, from export to verdict: conform says of each what transformers computes."""

import json
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from conform.core.cli.export import export
from conform.core.verify.verify import verify_file
from conform.parity import source_check
from conform.parity.judgement import judge_runtime
from conform.parity.questions.prompts import HOSTILE_TEXTS, PROSE
from conform.parity.questions.sequences import Scope
from conform.parity.reference.foreign import ForeignLogits
from conform.parity.reference.foreign_program import compute

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
pack_weights = pytest.importorskip("transformers.integrations.bitnet").pack_weights

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
    model = getattr(transformers, f"{family}ForCausalLM")(getattr(transformers, f"{family}Config")(**SIZES | settings))
    for name, values in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(values, 0.5, 1.5)
    model.save_pretrained(folder)


def quantised_by(folder, *, changed=None, **settings):
    """The checkpoint with this quantization_config; `changed` says what is stored for a linear layer."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {**settings, "modules_to_not_convert": ["lm_head"]}}
    path.write_text(json.dumps(config))
    if changed is not None:
        stored = {}
        for name, values in load_file(folder / "model.safetensors").items():
            linear = name.endswith("_proj.weight")
            stored |= (
                {name.removesuffix("weight") + end: v for end, v in changed(values).items()}
                if linear
                else {name: values}
            )
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def ternarised(values):
    """Codes of -1, 0 and 1, and their scale."""
    scale = values.abs().mean()
    return (values / scale).round().clamp(-1, 1), scale


def packed(values):
    """What BitLinear reads: four codes in a byte, and the scale that it divides by."""
    codes, scale = ternarised(values)
    return {"weight": pack_weights(codes), "weight_scale": 1 / scale.reshape(1)}


def loose(values):
    """What AutoBitLinear reads offline: one code in each value, and the scale that it multiplies with."""
    codes, scale = ternarised(values)
    return {"weight": codes, "weight_scale": scale.reshape(1)}


def fp8(values):
    """E4M3, one scale for each block of 128 × 128."""
    rows, columns = values.shape
    blocks = values.reshape(rows // 128, 128, columns // 128, 128)
    scales = blocks.abs().amax(dim=(1, 3)) / torch.finfo(torch.float8_e4m3fn).max
    codes = (blocks / scales[:, None, :, None]).reshape(rows, columns).to(torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": scales}


def llama(folder):
    write(folder, "Llama", rms_norm_eps=1e-5)


def llama_of_another_head_size(folder):
    write(folder, "Llama", head_dim=128)


def llama_scaled_as_llama3(folder):
    bounds = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    write(folder, "Llama", rope_parameters={"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, **bounds})


def llama_scaled_linearly(folder):
    write(folder, "Llama", rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0})


def llama_ternary(folder):
    write(folder, "Llama")
    quantised_by(folder, quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online")


def llama_fp8(folder):
    write(folder, "Llama")
    quantised_by(folder, changed=fp8, quant_method="fp8", weight_block_size=[128, 128], activation_scheme="dynamic")


def llama_byte_level(folder):
    """A tokenizer.json as SmolLM has it."""
    write(folder, "Llama")
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, letters])
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=512, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator([PROSE, *HOSTILE_TEXTS], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))


def mistral(folder):
    write(folder, "Mistral", sliding_window=None)


def bitnet_online(folder):
    write(folder, "BitNet", tie_word_embeddings=True)
    quantised_by(folder, quant_method="bitnet", linear_class="autobitlinear", quantization_mode="online")


def bitnet_packed(folder):
    write(folder, "BitNet", tie_word_embeddings=True)
    quantised_by(folder, changed=packed, quant_method="bitnet", linear_class="bitlinear", quantization_mode="offline")


def bitnet_loose(folder):
    write(folder, "BitNet", tie_word_embeddings=True)
    quantised_by(
        folder, changed=loose, quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline"
    )


CASES = [
    (llama, "q8_0"),
    (llama_of_another_head_size, "iq4_nl"),
    (llama_scaled_as_llama3, "q8_0"),
    (llama_scaled_linearly, "f16"),
    (llama_ternary, "i2_s"),
    (llama_fp8, "bf16"),
    (llama_byte_level, "q8_0"),
    (mistral, "f16"),
    (bitnet_online, "i2_s"),
    (bitnet_packed, "i2_s"),
    (bitnet_loose, "i2_s"),
]


@pytest.fixture
def in_this_process(request, monkeypatch):
    """transformers, imported once for all cases but the first, which starts it as conform does."""
    if request.node.callspec.id == CASES[0][0].__name__:
        return

    def foreign_logits(checkpoint, _parameters, sequences):
        with torch._dynamo.config.patch(disable=True):
            name, rows = compute(checkpoint.folder, sequences)
        parts = np.split(rows, np.cumsum([len(ids) for ids in sequences])[:-1])
        return ForeignLogits(parts, name, {"transformers": transformers.__version__})

    monkeypatch.setattr(source_check, "foreign_logits", foreign_logits)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize(("make", "quant"), [pytest.param(*case, id=case[0].__name__) for case in CASES])
def test_a_strangers_checkpoint_conforms(make, quant, tmp_path, tokenizer_model, goref, registry):
    make(tmp_path)
    if not (tmp_path / "tokenizer.json").exists():
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
    receipt = verdict.receipt["source"]
    assert receipt["library"].startswith(f"transformers {transformers.__version__}, ")
    assert (receipt["positions"], len(receipt["config_sha256"]), len(receipt["ids_sha256"])) == (192, 64, 64)
