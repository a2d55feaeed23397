"""What goref cannot run faithfully it refuses: exit 1, nothing on stdout, one clear line on stderr."""

import dataclasses
import re
import struct

import numpy as np
import pytest

F32, I2_S = 0, 36
LINE = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d (load model|generate): .*\n")


@pytest.fixture
def refusal(run_goref, tmp_path):
    """The reason why goref refuses that file."""

    def run(file, *arguments, env=None):
        path = file.write(tmp_path / "m.gguf")
        ran = run_goref("bitnet", "--model", path, "--prompt", "the", "--max-tokens", 2, *arguments, env=env)
        assert ran.code == 1, (ran.code, ran.err)
        assert ran.out == ""
        assert LINE.fullmatch(ran.err), ran.err
        return ran.err

    return run


@pytest.fixture
def file(micro):
    return micro.replace(layers=1, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=128, context=16).file()


def test_the_unspoiled_file_runs(file, run_goref, tmp_path):
    path = file.write(tmp_path / "m.gguf")
    assert run_goref("bitnet", "--model", path, "--prompt", "the", "--max-tokens", 2).code == 0


REQUIRED = [
    "general.architecture",
    "llama.block_count",
    "llama.context_length",
    "llama.embedding_length",
    "llama.feed_forward_length",
    "llama.vocab_size",
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "tokenizer.ggml.model",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.bos_token_id",
    "tokenizer.ggml.unknown_token_id",
    "tokenizer.ggml.add_bos_token",
]


@pytest.mark.parametrize("key", REQUIRED)
def test_no_key_has_a_silent_default(file, refusal, key):
    del file.keys[key]
    assert f"key {key} is missing" in refusal(file)


SPOILED_KEYS = {
    "unknown architecture": ("general.architecture", ("string", "qwen2"), 'architecture "qwen2"'),
    "forged architecture": ("general.architecture", ("string", "llama gguf_version=3"), "architecture"),
    "more layers": ("llama.block_count", ("u32", 2), "blk.1.attn_norm.weight is missing"),
    "endless layers": ("llama.block_count", ("u32", 2**31 - 1), "blk.1.attn_norm.weight is missing"),
    "zero heads": ("llama.attention.head_count", ("u32", 0), "expected at least 1"),
    "other heads": ("llama.attention.head_count", ("u32", 8), "head dimension 8"),
    "uneven heads": ("llama.attention.head_count_kv", ("u32", 3), "evenly"),
    "kv heads": ("llama.attention.head_count_kv", ("u32", 4), "blk.0.attn_k.weight has the shape"),
    "hidden": ("llama.embedding_length", ("u32", 65), "token_embd.weight has the shape"),
    "ffn": ("llama.feed_forward_length", ("u32", 127), "ffn_gate.weight has the shape"),
    "vocabulary": ("llama.vocab_size", ("u32", 299), "token_embd.weight has the shape"),
    "a count as float": ("llama.block_count", ("f32", 1.0), "expected a u32"),
    "a huge count": ("llama.context_length", ("u64", 2**40), "expected 0 to"),
    "a negative count": ("llama.context_length", ("i32", -1), "expected 0 to"),
    "odd rope dimension": ("llama.rope.dimension_count", ("u32", 15), "even"),
    "long rope dimension": ("llama.rope.dimension_count", ("u32", 32), "head dimension"),
    "rope base": ("llama.rope.freq_base", ("f32", 0.0), "above 1"),
    "rope base NaN": ("llama.rope.freq_base", ("f32", float("nan")), "finite"),
    "epsilon": ("llama.attention.layer_norm_rms_epsilon", ("f32", 0.0), "between 0 and 1"),
    "rope scaling": ("llama.rope.scaling.type", ("string", "longrope"), "rope scaling is not supported"),
    "rope scaling by nothing": ("llama.rope.scaling.type", ("string", "linear"), "rope.scaling.factor is missing"),
    "rope factor": ("llama.rope.scaling.factor", ("f32", 4.0), "rope scaling is not supported"),
    "rope context": ("llama.rope.scaling.original_context_length", ("u32", 4), "not supported"),
    "a window": ("llama.attention.sliding_window", ("u32", 4), "not supported"),
    "experts": ("llama.expert_count", ("u32", 8), "not supported"),
    "head length": ("llama.attention.key_length", ("u32", 32), "heads of 16"),
    "block version": ("general.quantization_version", ("u32", 3), "expected 2"),
    "fewer scores": ("tokenizer.ggml.scores", ("f32[]", [0.0]), "1 scores"),
    "fewer tokens": ("tokenizer.ggml.tokens", ("strings", ["<unk>"]), "1 tokens"),
    "scores as counts": ("tokenizer.ggml.scores", ("u32[]", [0] * 300), "expected an array of f32"),
    "other tokenizer": ("tokenizer.ggml.model", ("string", "t5"), "expected llama or gpt2"),
    "no pre-tokenizer": ("tokenizer.ggml.model", ("string", "gpt2"), "tokenizer.ggml.pre is missing"),
    "number as prefix": ("tokenizer.ggml.add_space_prefix", ("u32", 0), "expected a bool"),
    "bos outside": ("tokenizer.ggml.bos_token_id", ("u32", 300), "there are 300 tokens"),
}


@pytest.mark.parametrize(("key", "value", "reason"), SPOILED_KEYS.values(), ids=SPOILED_KEYS)
def test_keys_that_cannot_be_honoured(file, refusal, key, value, reason):
    file.keys[key] = value
    assert reason in refusal(file)


def test_neutral_rope_scaling_is_no_scaling(file, run_goref, tmp_path):
    file.keys["llama.rope.scaling.type"] = ("string", "none")
    file.keys["llama.rope.scaling.factor"] = ("f32", 1.0)
    assert run_goref("bitnet", "--model", file.write(tmp_path / "m.gguf")).code == 1  # 32 tokens exceed the context
    assert run_goref("bitnet", "--model", file.write(tmp_path / "m.gguf"), "--max-tokens", 4).code == 0


SPOILED_YARN = {
    "original context": ("original_context_length", None, "original_context_length is missing"),
    "absurd context": ("original_context_length", ("u32", 1), "original context of 1 is not supported"),
    "factor": ("factor", ("f32", -4.0), "expected a number above 0"),
    "magnitude": ("attn_factor", ("f32", 0.0), "expected a number above 0"),
    "beta": ("yarn_beta_fast", ("f32", 16.0), "yarn_beta_fast = 16 is not supported, expected 32"),
    "fixed magnitude": ("yarn_attn_factor", ("f32", 1.0), "goref does not know what it changes"),
}


@pytest.mark.parametrize(("name", "value", "reason"), SPOILED_YARN.values(), ids=SPOILED_YARN)
def test_yarn_that_cannot_be_honoured(micro, refusal, name, value, reason):
    file = micro.replace(scaling="yarn").file()
    key = f"llama.rope.scaling.{name}"
    file.keys = {k: v for k, v in file.keys.items() if k != key} | ({} if value is None else {key: value})
    assert reason in refusal(file)


def test_factors_of_frequencies_are_positive_and_one_for_each_pair(micro, refusal):
    file = micro.replace(scaling="llama3").file()
    whole = file.tensors["rope_freqs.weight"]
    file.tensors["rope_freqs.weight"] = dataclasses.replace(whole, raw=whole.raw[:-4] + bytes(4))
    assert "rope_freqs.weight[15] = 0, expected a number above 0" in refusal(file)
    file.tensors["rope_freqs.weight"] = dataclasses.replace(whole, shape=(15,), raw=whole.raw[:-4])
    assert "rope_freqs.weight has the shape [15]" in refusal(file)


def test_bitnet_has_no_factors_of_frequencies(micro, refusal):
    file = micro.replace(arch="bitnet-b1.58", scaling="llama3").file()
    assert "tensor rope_freqs.weight is not part of the model" in refusal(file)


def test_a_vocabulary_of_another_size_than_the_embedding(micro, file, refusal):
    keys = micro.replace(vocab=301).keys()
    file.keys |= {key: value for key, value in keys.items() if key.startswith("tokenizer.")}
    assert "301 tokens, but a vocabulary of 300" in refusal(file)


@pytest.mark.parametrize(
    "name", ["token_embd", "output_norm", "blk.0.attn_norm", "blk.0.attn_q", "blk.0.attn_output", "blk.0.ffn_down"]
)
def test_a_missing_tensor(file, refusal, name):
    del file.tensors[f"{name}.weight"]
    assert f"tensor {name}.weight is missing" in refusal(file)


@pytest.mark.parametrize("name", ["rope_factors_long.weight", "blk.0.attn_q.bias", "blk.1.attn_norm.weight", "x"])
def test_a_tensor_that_is_not_part_of_the_model(file, refusal, name):
    file.tensors[name] = file.tensors["output_norm.weight"]
    assert f"tensor {name} is not part of the model" in refusal(file)


def test_an_output_matrix_where_the_architecture_ignores_it(micro, refusal):
    file = micro.replace(arch="bitnet-b1.58", tied=False).file()
    assert "tensor output.weight is not part of the model" in refusal(file)


def test_a_sub_norm_in_some_layers_only(micro, refusal):
    file = micro.replace(sub_norms=True).file()
    del file.tensors["blk.1.ffn_sub_norm.weight"]
    assert "tensor blk.1.ffn_sub_norm.weight is missing" in refusal(file)


def test_a_transposed_matrix(file, refusal):
    tensor = file.tensors["blk.0.ffn_up.weight"]
    file.tensors["blk.0.ffn_up.weight"] = type(tensor)(tensor.shape[::-1], tensor.kind, tensor.raw)
    assert "blk.0.ffn_up.weight has the shape [128 64], expected [64 128]" in refusal(file)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(file, refusal, value):
    tensor = file.tensors["blk.0.ffn_up.weight"]
    raw = bytearray(tensor.raw)
    raw[400:404] = struct.pack("<f", value)
    file.tensors["blk.0.ffn_up.weight"] = type(tensor)(tensor.shape, tensor.kind, bytes(raw))
    assert "tensor blk.0.ffn_up.weight: value 100 is" in refusal(file)


def test_activations_that_overflow(file, refusal):
    tensor = file.tensors["output_norm.weight"]
    huge = np.full(tensor.shape, 3e38, np.float32).tobytes()
    file.tensors["output_norm.weight"] = type(tensor)(tensor.shape, F32, huge)
    assert "the logit of token" in refusal(file)


def test_code_three_in_i2_s(micro, refusal):
    file = micro.replace(layers=1, linear=I2_S).file()
    tensor = file.tensors["blk.0.attn_v.weight"]
    raw = bytearray(tensor.raw)
    raw[33] |= 0b00001100
    file.tensors["blk.0.attn_v.weight"] = type(tensor)(tensor.shape, tensor.kind, bytes(raw))
    assert "tensor blk.0.attn_v.weight: value 193 has the code 3" in refusal(file)


def test_i2_s_in_another_byte_order(micro, refusal):
    file = micro.replace(layers=1, linear=I2_S).file()
    file.keys["conform.i2_s.layout"] = ("string", "arm")
    assert "conform.i2_s.layout is arm; only x86 is read" in refusal(file)


@pytest.mark.parametrize(("kind", "name"), [(4, "type 4"), (24, "type 24"), (99, "type 99")])
def test_a_tensor_type_that_is_not_decoded(file, refusal, kind, name):
    tensor = file.tensors["blk.0.ffn_up.weight"]
    file.tensors["blk.0.ffn_up.weight"] = type(tensor)(tensor.shape, kind, tensor.raw)
    assert f"tensor blk.0.ffn_up.weight: {name} is not supported" in refusal(file)


def test_more_positions_than_the_context_has(file, refusal):
    assert "need 17 positions, the model's context has 16" in refusal(file, "--max-tokens", 16)


def test_a_prompt_without_any_token(file, refusal):
    file.keys["tokenizer.ggml.add_bos_token"] = ("bool", False)
    assert "the prompt has no tokens" in refusal(file, "--prompt", "")


REQUESTS = {
    "forced token outside": ({"BITNET_FORCE_TOKENS": "1,300"}, "forced token 300 at step 1"),
    "step beyond the end": ({"BITNET_DRIFT_TRACE_STEP": "2"}, "step 2 is to be traced"),
    "position beyond the end": (
        {
            "BITNET_DEBUG_STEP0": "1",
            "BITNET_DEBUG_STAGES": "1",
            "BITNET_DEBUG_POS": "9",
            "BITNET_DEBUG_TOKENS": "0",
        },
        "logits at position 9",
    ),
}


@pytest.mark.parametrize(("env", "reason"), REQUESTS.values(), ids=REQUESTS)
def test_requests_that_would_be_answered_in_part(file, refusal, env, reason):
    assert reason in refusal(file, env=env)


@pytest.mark.parametrize("name", ["BITNET_PARITY_STRICT", "BITNET_DRIFT_TRACE_TOKEN", "BITNET_ANYTHING"])
def test_variables_that_are_not_implemented(file, run_goref, tmp_path, name):
    ran = run_goref("bitnet", "--model", file.write(tmp_path / "m.gguf"), env={name: "1"})
    assert (ran.code, ran.out) == (1, "")
    assert f"environment variable {name} is not supported" in ran.err


@pytest.mark.parametrize("cut", [0, 3, 24, 100, 5000, -1])
def test_truncated_files(file, run_goref, tmp_path, cut):
    path = file.write(tmp_path / "m.gguf")
    whole = path.read_bytes().rstrip(b"\0")
    path.write_bytes(whole[:cut])
    for tool in (["bitnet"], ["tokenize", "--prompt", "a"], ["ggufhash", "--tensor", "output_norm.weight"]):
        ran = run_goref(tool[0], "--model", path, *tool[1:])
        assert (ran.code, ran.out) == (1, "")
        assert ran.err.count("\n") == 1


def test_flipped_bits_never_crash(file, run_goref, tmp_path):
    path = file.write(tmp_path / "m.gguf")
    whole = path.read_bytes()
    header = whole.index(b"output_norm.weight") + 60
    rng = np.random.default_rng(3)
    for position in rng.integers(0, header, 40):
        spoiled = bytearray(whole)
        spoiled[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(spoiled)
        ran = run_goref("bitnet", "--model", path, "--max-tokens", 1)
        assert ran.code in (0, 1), ran.err
        assert (ran.out == "") == (ran.code == 1)
