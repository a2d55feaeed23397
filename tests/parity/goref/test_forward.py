"""goref against an independent forward pass in numpy, in float64 where goref rounds to float32."""

import numpy as np
import pytest

BF16, F16, Q8_0, I2_S = 30, 1, 8, 36
TOKENS = [1, 265, 40, 299, 7, 131, 260, 288]


def linear(weight, x, int8):
    if not int8:
        return x.astype(np.float64) @ weight.T.astype(np.float64)
    largest = np.float32(max(np.abs(x.astype(np.float32)).max(), 1e-5))
    steps = np.float32(127) / largest
    levels = np.clip(np.rint(x.astype(np.float32) * steps), -128, 127)
    scale = np.abs(weight).max()
    return (np.sign(weight) @ levels) * np.float64(scale / steps)


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean() + eps) * weight


def rotate(x, position, spec):
    x = x.reshape(-1, spec.head_dim).astype(np.float64)
    angle = position * spec.rope_base ** (-np.arange(0, spec.head_dim, 2) / spec.head_dim)
    half = spec.head_dim // 2
    first = np.arange(0, spec.head_dim, 2) if spec.arch == "llama" else np.arange(half)
    second = first + (1 if spec.arch == "llama" else half)
    out = np.empty_like(x)
    out[:, first] = x[:, first] * np.cos(angle) - x[:, second] * np.sin(angle)
    out[:, second] = x[:, first] * np.sin(angle) + x[:, second] * np.cos(angle)
    return out


def reference(spec, weights, tokens):
    """The normalised hidden state and the logits at the last of the tokens."""
    int8 = spec.linear == I2_S
    keys, values = [[] for _ in range(spec.layers)], [[] for _ in range(spec.layers)]
    for position, token in enumerate(tokens):
        x = weights["token_embd.weight"][token].astype(np.float64)
        for layer in range(spec.layers):
            w = {n.split(".")[2]: v for n, v in weights.items() if n.startswith(f"blk.{layer}.")}
            h = norm(x, w["attn_norm"], spec.eps)
            q, k, v = (linear(w[name], h, int8) for name in ("attn_q", "attn_k", "attn_v"))
            q = rotate(q, position, spec)
            keys[layer].append(rotate(k, position, spec))
            values[layer].append(v.reshape(spec.kv_heads, spec.head_dim))
            mixed = []
            for head in range(spec.heads):
                kv = head * spec.kv_heads // spec.heads
                scores = np.array([q[head] @ key[kv] for key in keys[layer]]) / np.sqrt(spec.head_dim)
                attention = np.exp(scores - scores.max())
                attention /= attention.sum()
                mixed.append(sum(a * value[kv] for a, value in zip(attention, values[layer], strict=True)))
            mixed = np.concatenate(mixed)
            if spec.sub_norms:
                mixed = norm(mixed, w["attn_sub_norm"], spec.eps)
            x = x + linear(w["attn_output"], mixed, int8)
            h = norm(x, w["ffn_norm"], spec.eps)
            gate, up = linear(w["ffn_gate"], h, int8), linear(w["ffn_up"], h, int8)
            gate = gate / (1 + np.exp(-gate)) if spec.arch == "llama" else np.maximum(gate, 0) ** 2
            h = gate * up
            if spec.sub_norms:
                h = norm(h, w["ffn_sub_norm"], spec.eps)
            x = x + linear(w["ffn_down"], h, int8)
    hidden = norm(x, weights["output_norm.weight"], spec.eps)
    output = weights["token_embd.weight" if spec.tied else "output.weight"]
    return hidden, linear(output, hidden, False)


def nmse(found, expected):
    return ((found - expected) ** 2).sum() / (expected**2).sum()


def decoded(weights, kind):
    """What the file holds after its cast; norms stay f32."""
    if kind not in (F16, BF16):
        return weights
    cast = {F16: lambda v: v.astype(np.float16).astype(np.float32), BF16: truncate}[kind]
    return {name: v if v.ndim == 1 or "blk." not in name else cast(v) for name, v in weights.items()}


def truncate(values):
    return (values.view(np.uint32) >> 16 << 16).view(np.float32)


@pytest.fixture
def last_hidden(run_goref, tmp_path):
    """The hidden state and argmax after the tokens, which are forced after an empty prompt (BOS alone)."""

    def run(spec):
        path = spec.file().write(tmp_path / "m.gguf")
        steps = len(TOKENS)
        env = {
            "BITNET_FORCE_TOKENS": ",".join(map(str, TOKENS[1:])),
            "BITNET_DRIFT_TRACE_STEP": str(steps - 1),
            "BITNET_DRIFT_TRACE_VALUES_N": "100000",
        }
        ran = run_goref("bitnet", "--model", path, "--max-tokens", steps, env=env)
        assert ran.code == 0, ran.err
        return ran

    return run


FLOAT_MODELS = {
    "f32": {},
    "f16": {"linear": F16},
    "bf16": {"linear": BF16},
    "untied": {"tied": False},
    "sub_norms": {"sub_norms": True},
    "bitnet": {"arch": "bitnet-b1.58", "sub_norms": True},
    "one_kv_head": {"kv_heads": 1},
    "wide_heads": {"heads": 4, "kv_heads": 4, "head_dim": 128},
    "other_base": {"rope_base": 500000.0, "eps": 1e-3},
}


@pytest.mark.parametrize("changes", FLOAT_MODELS.values(), ids=FLOAT_MODELS)
def test_hidden_states_agree_with_float64(micro, last_hidden, changes):
    spec = micro.replace(**changes)
    hidden, logits = reference(spec, decoded(spec.weights(), spec.linear), TOKENS)
    ran = last_hidden(spec)
    assert nmse(ran.hidden(), hidden) < 1e-11
    assert f"argmax_token={np.argmax(logits)} " in ran.err


@pytest.mark.parametrize("arch", ["llama", "bitnet-b1.58"])
def test_i2_s_agrees_with_int8_activations_and_not_with_float_ones(micro, last_hidden, arch):
    spec = micro.replace(arch=arch, linear=I2_S)
    ran = last_hidden(spec)
    hidden, logits = reference(spec, spec.weights(), TOKENS)
    floating, _ = reference(spec.replace(linear=0), spec.weights(), TOKENS)
    # A rounding of an activation to the other int8 level may differ: that is the only freedom.
    assert nmse(ran.hidden(), hidden) < 1e-6
    assert nmse(ran.hidden(), floating) > 1e-5
    assert f"argmax_token={np.argmax(logits)} " in ran.err


def test_i2_s_f32_uses_float_activations(micro, run_goref, tmp_path):
    spec = micro.replace(linear=I2_S)
    path = spec.file().write(tmp_path / "m.gguf")
    env = {"BITNET_I2S_F32": "1", "BITNET_DRIFT_TRACE_STEP": "0", "BITNET_DRIFT_TRACE_VALUES_N": "256"}
    ran = run_goref("bitnet", "--model", path, "--max-tokens", 1, env=env)
    expected, _ = reference(spec.replace(linear=0), spec.weights(), [1])
    assert nmse(ran.hidden(), expected) < 1e-11


def test_any_number_of_processors_gives_the_same_bits(micro, run_goref, tmp_path):
    path = micro.file().write(tmp_path / "m.gguf")
    env = {"BITNET_DRIFT_TRACE_STEP": "5", "BITNET_DRIFT_TRACE_VALUES_N": "512"}
    traces = {run_goref("bitnet", "--model", path, "--prompt", "the", "--procs", n, env=env).err for n in (1, 2, 3)}
    assert len(traces) == 1
