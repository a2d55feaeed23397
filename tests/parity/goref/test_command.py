"""goref's command line: the output line, the traces, teacher forcing, sampling."""

import json
import re

import numpy as np
import pytest

I2_S = 36
OUTPUT = re.compile(
    r"model=(?P<model>.*) arch=llama gguf_version=3 tensors=(?P<tensors>\d+) kv=(?P<kv>\d+) ctx=64 vocab=300 "
    r'tokens=(?P<tokens>\d+)(?P<batch> batch=\d+)? output=(?P<output>".*")\n'
)


@pytest.fixture
def bitnet(micro, run_goref, tmp_path):
    path = micro.file().write(tmp_path / "micro.gguf")

    def run(*arguments, env=None):
        ran = run_goref("bitnet", f"--model={path}", *arguments, env=env)
        assert ran.code == 0, ran.err
        return ran

    return run


def test_the_output_line(micro, bitnet):
    ran = bitnet("--prompt", "the in", "--max-tokens", 3)
    line = OUTPUT.fullmatch(ran.out)
    assert line["model"].endswith("micro.gguf")
    assert int(line["tensors"]) == len(micro.shapes())
    assert int(line["kv"]) == len(micro.keys())
    assert (line["tokens"], line["batch"]) == ("3", None)
    assert json.loads(line["output"]).startswith("the in")
    assert ran.err == ""


def test_the_prompt_is_quoted_as_go_quotes(bitnet):
    ran = bitnet("--prompt", 'a"b\\\n\t\x01é\u200b\U0001f600', "--max-tokens", 0)
    assert ran.out.endswith('output="a\\"b\\\\\\n\\t\\x01é\\u200b\U0001f600"\n')


def test_a_prompt_that_is_not_utf8_is_quoted_byte_by_byte(bitnet):
    assert bitnet("--prompt", "a\udcff", "--max-tokens", 0).out.endswith('output="a\\xff"\n')


def test_forced_tokens_replace_the_chosen_ones_and_are_printed(micro, bitnet):
    ran = bitnet("--prompt", "the", "--max-tokens", 3, env={"BITNET_FORCE_TOKENS": "13,262"})
    assert json.loads(OUTPUT.fullmatch(ran.out)["output"]).startswith("the<0x0A> the")
    free = bitnet("--prompt", "the", "--max-tokens", 3)
    assert free.out != ran.out


def test_the_trace_of_a_step(micro, bitnet):
    env = {"BITNET_DRIFT_TRACE_STEP": "1", "BITNET_DRIFT_TRACE_LAYER": "-1", "BITNET_DRIFT_TRACE_VALUES_N": "99999"}
    ran = bitnet("--prompt", "a", "--max-tokens", 2, env=env | {"BITNET_FORCE_TOKENS": "77"})
    lines = ran.err.splitlines()
    assert lines[0] == "drift_trace step=1 pos=2 token=77 layers=2"
    assert lines[2] == "drift_trace qkv_dims layer=0 q_heads=8 kv_heads=2 q_len=256 k_len=64 v_len=64"
    names = re.findall(r"values layer=0 name=(\S+)", ran.err)
    heads = [f"attn_softmax_h{head}" for head in range(8)]
    assert names == [
        *["attn_norm", "Qcur", "Kcur", "Vcur", "v_pre_store", "v_post_store", *heads],
        *["attn_sub_norm", "attn_o_out", "x_post_attn", "ffn_act", "ffn_sub_norm", "x_post_ffn"],
    ]
    assert ran.values("ffn_act", 1).shape == (512,)
    assert ran.values("attn_softmax_h3", 0).sum() == pytest.approx(1, abs=1e-6)
    assert np.array_equal(ran.values("v_pre_store", 1), ran.values("v_post_store", 1))
    logits = micro.weights()["token_embd.weight"].astype(np.float64) @ ran.hidden()
    last = re.fullmatch(r"drift_trace logits step=1 argmax_token=(\d+) argmax_logit=(\S+)", lines[-1])
    assert int(last[1]) == np.argmax(logits)
    assert np.float32(last[2]) == np.float32(logits.max())


def test_q_and_k_are_traced_before_rope(micro, bitnet):
    env = {"BITNET_DRIFT_TRACE_STEP": "2", "BITNET_DRIFT_TRACE_LAYER": "0", "BITNET_DRIFT_TRACE_VALUES_N": "256"}
    ran = bitnet("--prompt", "a", "--max-tokens", 3, env=env)
    weights = micro.weights()
    for name, role in (("Qcur", "attn_q"), ("Kcur", "attn_k"), ("Vcur", "attn_v")):
        expected = weights[f"blk.0.{role}.weight"].astype(np.float64) @ ran.values("attn_norm", 0)
        assert np.array_equal(ran.values(name, 0), expected.astype(np.float32))
    assert "values layer=1" not in ran.err


def test_a_trace_without_values_has_no_value_lines(bitnet):
    ran = bitnet("--max-tokens", 1, env={"BITNET_DRIFT_TRACE_STEP": "0"})
    assert "values=" not in ran.err
    assert ran.err.startswith("drift_trace step=0 pos=0 token=1 layers=2\n")


def test_values_are_cut_to_the_number_asked_for_but_the_hidden_state_is_whole(bitnet):
    ran = bitnet("--max-tokens", 1, env={"BITNET_DRIFT_TRACE_STEP": "0", "BITNET_DRIFT_TRACE_VALUES_N": "3"})
    assert ran.values("x_post_ffn", 1).shape == (3,)
    assert ran.hidden().shape == (256,)


def test_tracing_changes_no_bit_of_the_answer(bitnet):
    arguments = ("--prompt", "the", "--max-tokens", 8, "--temp", 1, "--seed", 5)
    traced = bitnet(*arguments, env={"BITNET_DRIFT_TRACE_STEP": "3", "BITNET_DRIFT_TRACE_VALUES_N": "9"})
    assert traced.out == bitnet(*arguments).out


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("embedding", [0, I2_S])
def test_debug_logits_of_any_position(micro, run_goref, tmp_path, tied, embedding):
    spec = micro.replace(tied=tied, embedding=embedding)
    path = spec.file().write(tmp_path / "m.gguf")
    env = {
        "BITNET_DEBUG_STEP0": "1",
        "BITNET_DEBUG_STAGES": "1",
        "BITNET_DEBUG_POS": "1",
        "BITNET_DEBUG_TOKENS": "0,7,299",
        "BITNET_DRIFT_TRACE_STEP": "0",
        "BITNET_DRIFT_TRACE_VALUES_N": "256",
    }
    ran = run_goref("bitnet", "--model", path, "--prompt", "a", "--max-tokens", 1, env=env)
    found = re.findall(r"debug logits\.stage\.output_norm token=(\d+) logit=(\S+)", ran.err)
    output = spec.weights()["token_embd.weight" if tied else "output.weight"]
    if embedding == I2_S:
        output = np.sign(output) * np.abs(output).max()
    expected = output @ ran.hidden()
    assert [int(token) for token, _ in found] == [0, 7, 299]
    assert [float(logit) for _, logit in found] == pytest.approx(expected[[0, 7, 299]].tolist(), abs=2e-5)


def test_attention_meta(bitnet):
    ran = bitnet("--max-tokens", 1, env={"BITNET_DEBUG_ATTN_META": "1"})
    meta = 'debug attn meta: heads=8 kv_heads=2 rope_dim=32 rope_freq_base=10000 rope_scale=1 rope_type=""'
    assert ran.err.startswith(meta)


def test_profiles_are_lines_of_their_own(bitnet):
    ran = bitnet("--max-tokens", 2, env={"BITNET_PROFILE_LOAD": "1", "BITNET_PROFILE_STEP": "1"})
    assert re.fullmatch(r"profile load ms=\S+\nprofile step=0 ms=\S+\nprofile step=1 ms=\S+\n", ran.err)


def test_a_batch_prints_the_first_sequence_only(bitnet):
    arguments = ("--max-tokens", 6, "--temp", 1.5, "--seed", 4)
    alone, batch = bitnet(*arguments).out, bitnet(*arguments, "--batch", 3).out
    assert batch == alone.replace(" output=", " batch=3 output=")


def uniforms(seed):
    state = (seed ^ 0x9E3779B97F4A7C15) % 2**64
    while True:
        state ^= state >> 12
        state = state ^ (state << 25) % 2**64
        state ^= state >> 27
        yield np.float32((state * 2685821657736338717 % 2**64 >> 11) / 2**53)


def drawn(logits, r, temperature, top_k, top_p):
    """One draw, written from the description: sequential float32 sums."""
    ids = np.argsort(-logits, kind="stable")[:top_k] if top_k else np.arange(len(logits))
    scaled = logits[ids] / np.float32(temperature)
    weights = np.exp((scaled - scaled.max()).astype(np.float64)).astype(np.float32)
    weights = weights * (np.float32(1) / np.cumsum(weights)[-1])
    if top_p < 1:
        order = np.argsort(-weights, kind="stable")
        kept = order[: int((np.cumsum(weights[order]) < np.float32(top_p)).sum()) + 1]
        ids, weights = ids[kept], weights[kept] * (np.float32(1) / np.cumsum(weights[kept])[-1])
    reached = np.flatnonzero(r <= np.cumsum(weights))
    return int(ids[reached[0] if len(reached) else -1])


SAMPLINGS = {
    "plain": (1.0, 0, 1.0, 1),
    "hot": (3.0, 0, 1.0, 2**62),
    "negative seed": (1.0, 0, 1.0, -3),
    "top_k": (2.0, 5, 1.0, 9),
    "top_p": (2.0, 0, 0.6, 11),
    "both": (2.5, 40, 0.7, 12),
    "top_k beyond the vocabulary": (1.0, 1000, 1.0, 13),
}


@pytest.mark.parametrize(("temperature", "top_k", "top_p", "seed"), SAMPLINGS.values(), ids=SAMPLINGS)
def test_sampling_follows_its_description(micro, bitnet, temperature, top_k, top_p, seed):
    steps = 12
    flags = ("--max-tokens", steps, "--temp", temperature, "--top-k", top_k, "--top-p", top_p, "--seed", seed)
    random = uniforms(seed)
    embedding = micro.weights()["token_embd.weight"].astype(np.float64)
    chosen = []
    for step in range(steps):
        env = {"BITNET_DRIFT_TRACE_STEP": str(step), "BITNET_DRIFT_TRACE_VALUES_N": "256"}
        ran = bitnet(*flags, env=env)
        logits = (embedding @ ran.hidden()).astype(np.float32)
        chosen.append(drawn(logits, next(random), temperature, top_k, top_p))
    pieces = micro.keys()["tokenizer.ggml.tokens"][1]
    expected = "".join(pieces[token] for token in chosen).replace("▁", " ")
    assert json.loads(OUTPUT.fullmatch(ran.out)["output"]) == expected
    assert len(set(chosen)) > 3


def test_greedy_ignores_the_seed(bitnet):
    assert len({bitnet("--max-tokens", 5, "--temp", t, "--seed", s).out for t, s in ((0, 1), (0, 2), (-1, 3))}) == 1


def test_a_tensor_s_codes_are_counted(micro, run_goref, tmp_path):
    spec = micro.replace(layers=1, linear=I2_S)
    path = spec.file().write(tmp_path / "m.gguf")
    counts = json.loads(run_goref("i2sscan", path, "blk.0.attn_q.weight").out)
    signs = np.sign(spec.weights()["blk.0.attn_q.weight"])
    assert counts == {"0": int((signs < 0).sum()), "1": int((signs == 0).sum()), "2": int((signs > 0).sum()), "3": 0}


USAGES = {
    "no arguments": ("tokenize",),
    "two prompts": ("tokenize", "--model", "m", "--prompt", "a", "--prompt-file", "b"),
    "no tensor": ("ggufhash", "--model", "m"),
    "one argument": ("i2sscan", "m"),
    "no model": ("bitnet", "--prompt", "a"),
}


@pytest.mark.parametrize("command", USAGES.values(), ids=USAGES)
def test_wrong_usage_is_exit_status_2(run_goref, command):
    ran = run_goref(*command)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err
