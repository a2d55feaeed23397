"""A GGUF writer, a micro model and runs of goref: written for these tests alone, independent of what they check."""

import dataclasses
import os
import struct
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from conform.parity.goref.toolchain import build_goref

F32, F16, Q8_0, BF16, I2_S = 0, 1, 8, 30, 36
SCALING_KEYS = {
    "": {},
    "llama3": {},
    "linear": {"type": ("string", "linear"), "factor": ("f32", 2.5)},
    "yarn": {
        "type": ("string", "yarn"),
        "factor": ("f32", 4.0),
        "original_context_length": ("u32", 256),
        "attn_factor": ("f32", 1.25),
        "yarn_beta_fast": ("f32", 32.0),
        "yarn_beta_slow": ("f32", 1.0),
    },
}
_SCALARS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: str, value: object) -> bytes:
    if kind == "string":
        return struct.pack("<I", 8) + _text(value)
    if kind == "strings":
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))
    if kind.endswith("[]"):
        code, form = _SCALARS[kind[:-2]]
        return struct.pack("<IIQ", 9, code, len(value)) + b"".join(struct.pack(form, item) for item in value)
    code, form = _SCALARS[kind]
    return struct.pack("<I", code) + struct.pack(form, value)


def pack(values: np.ndarray, kind: int) -> bytes:
    """The bytes of a tensor; I2_S takes values of -c, 0, c."""
    if kind == F16:
        return values.astype("<f2").tobytes()
    if kind == BF16:
        return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if kind == Q8_0:
        blocks = values.reshape(-1, 32)
        scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype("<f2")
        levels = np.rint(blocks / np.maximum(scale.astype(np.float32), 1e-8)).clip(-127, 127).astype(np.int8)
        return np.concatenate([scale.view(np.uint8), levels.view(np.uint8)], 1).tobytes()
    if kind == I2_S:
        codes = (np.sign(values).astype(np.int8) + 1).astype(np.uint8).reshape(-1, 4, 32)
        packed = codes[:, 0] << 6 | codes[:, 1] << 4 | codes[:, 2] << 2 | codes[:, 3]
        return packed.tobytes() + struct.pack("<f", np.abs(values).max()) + bytes(28)
    return values.astype("<f4").tobytes()


@dataclass(frozen=True)
class Tensor:
    """Bytes with the shape as PyTorch writes it, rows first."""

    shape: tuple[int, ...]
    kind: int
    raw: bytes


@dataclass
class MicroFile:
    """Everything in a GGUF file, open to be spoiled by a test before it is written."""

    keys: dict[str, tuple[str, object]]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    version: int = 3
    alignment: int = 32

    def write(self, path: Path) -> Path:
        table, data = b"", b""
        for name, tensor in self.tensors.items():
            dims = b"".join(struct.pack("<Q", size) for size in reversed(tensor.shape))
            table += _text(name) + struct.pack("<I", len(tensor.shape)) + dims
            table += struct.pack("<IQ", tensor.kind, len(data))
            data += tensor.raw + bytes(-len(tensor.raw) % self.alignment)
        head = struct.pack("<IIQQ", 0x46554747, self.version, len(self.tensors), len(self.keys))
        head += b"".join(_text(key) + _value(kind, value) for key, (kind, value) in self.keys.items()) + table
        path.write_bytes(head + bytes(-len(head) % self.alignment) + data)
        return path


@dataclass(frozen=True)
class Micro:
    """A model small enough for a test and awkward enough to tell wrong from right."""

    arch: str = "llama"
    layers: int = 2
    hidden: int = 256
    heads: int = 8
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 512
    vocab: int = 300
    context: int = 64
    rope_base: float = 10000.0
    scaling: str = ""
    eps: float = 1e-5
    linear: int = F32
    embedding: int = F32
    tied: bool = True
    sub_norms: bool = False
    seed: int = 7

    def shapes(self) -> dict[str, tuple[int, ...]]:
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (self.vocab, self.hidden)}
        for layer in range(self.layers):
            block = {
                "attn_norm": (self.hidden,),
                "attn_q": (q, self.hidden),
                "attn_k": (kv, self.hidden),
                "attn_v": (kv, self.hidden),
                "attn_output": (self.hidden, q),
                "ffn_norm": (self.hidden,),
                "ffn_gate": (self.ffn, self.hidden),
                "ffn_up": (self.ffn, self.hidden),
                "ffn_down": (self.hidden, self.ffn),
            }
            if self.sub_norms:
                block |= {"attn_sub_norm": (q,), "ffn_sub_norm": (self.ffn,)}
            shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
        shapes["output_norm.weight"] = (self.hidden,)
        return shapes if self.tied else shapes | {"output.weight": (self.vocab, self.hidden)}

    def weights(self) -> dict[str, np.ndarray]:
        """Random weights; what I2_S stores is exactly ternary, norms are not 1, heads are distinct."""
        rng = np.random.default_rng(self.seed)
        weights = {}
        for name, shape in self.shapes().items():
            if len(shape) == 1:
                weights[name] = rng.uniform(0.5, 1.5, shape).astype(np.float32)
                continue
            values = rng.normal(0, 1.5 / np.sqrt(shape[1]), shape).astype(np.float32)
            if self.linear == I2_S and "blk." in name:
                scale = np.float32(np.abs(values).mean())
                values = np.clip(np.rint(values / scale), -1, 1).astype(np.float32) * scale
            weights[name] = values
        return weights

    def file(self) -> MicroFile:
        """The GGUF file with these weights; `token_embd` and `output` are stored as `embedding`."""
        tensors = {}
        for name, values in self.weights().items():
            kind = F32 if values.ndim == 1 else self.linear if "blk." in name else self.embedding
            tensors[name] = Tensor(values.shape, kind, pack(values, kind))
        if self.scaling == "llama3":
            factors = np.linspace(1, 8, self.head_dim // 2, dtype=np.float32)
            tensors["rope_freqs.weight"] = Tensor(factors.shape, F32, pack(factors, F32))
        return MicroFile(self.keys(), tensors)

    def keys(self) -> dict[str, tuple[str, object]]:
        counts = {
            "block_count": self.layers,
            "context_length": self.context,
            "embedding_length": self.hidden,
            "feed_forward_length": self.ffn,
            "vocab_size": self.vocab,
            "attention.head_count": self.heads,
            "attention.head_count_kv": self.kv_heads,
            "rope.dimension_count": self.head_dim,
        }
        return {
            "general.architecture": ("string", self.arch),
            **{f"{self.arch}.{key}": ("u32", count) for key, count in counts.items()},
            f"{self.arch}.rope.freq_base": ("f32", self.rope_base),
            **{f"{self.arch}.rope.scaling.{name}": value for name, value in SCALING_KEYS[self.scaling].items()},
            f"{self.arch}.attention.layer_norm_rms_epsilon": ("f32", self.eps),
            **vocabulary_keys(self.vocab),
        }

    def replace(self, **changes: object) -> "Micro":
        return dataclasses.replace(self, **changes)


def vocabulary_keys(vocab: int) -> dict[str, tuple[str, object]]:
    """<unk> <s> </s>, the 256 bytes, then a few letters and merges."""
    pieces = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = [2, 3, 3] + [6] * 256
    words = ["▁t", "▁a", "he", "▁the", "in", "re", "▁", *"etaoinshrdlucmfwypvbgkqjxz", *"ETAOINSHRD"]
    words += [f"word{number}" for number in range(vocab)]
    pieces += words[: vocab - len(pieces)]
    kinds += [1] * (vocab - len(kinds))
    scores = [0.0] * 259 + [-float(rank) for rank in range(vocab - 259)]
    return {
        "tokenizer.ggml.model": ("string", "llama"),
        "tokenizer.ggml.tokens": ("strings", pieces),
        "tokenizer.ggml.scores": ("f32[]", scores),
        "tokenizer.ggml.token_type": ("i32[]", kinds),
        "tokenizer.ggml.bos_token_id": ("u32", 1),
        "tokenizer.ggml.eos_token_id": ("u32", 2),
        "tokenizer.ggml.unknown_token_id": ("u32", 0),
        "tokenizer.ggml.add_bos_token": ("bool", True),
    }


@dataclass(frozen=True)
class Ran:
    """What a run left behind."""

    code: int
    out: str
    err: str

    def values(self, name: str, layer: int) -> np.ndarray:
        """The traced vector of that name and layer."""
        return self._numbers(f"drift_trace values layer={layer} name={name} values=")

    def hidden(self) -> np.ndarray:
        return self._numbers("drift_trace output_norm_values=")

    def _numbers(self, prefix: str) -> np.ndarray:
        (line,) = [line for line in self.err.splitlines() if line.startswith(prefix)]
        return np.array([np.float32(number) for number in line.removeprefix(prefix).split(",")], np.float32)


def run_tool(path: Path, arguments: Sequence[object], environment: Mapping[str, str] | None = None) -> Ran:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BITNET_")}
    done = subprocess.run(
        [str(path), *map(str, arguments)],
        env=clean | dict(environment or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def goref_tool() -> Callable[[str], Path]:
    """goref_tool("tokenize") is the path of that tool, built when needed."""
    return build_goref


@pytest.fixture(scope="session")
def run_goref() -> Callable[..., Ran]:
    """run_goref("bitnet", "--model", path, env={…}) runs a tool of goref."""

    def run(tool: str, *arguments: object, env: Mapping[str, str] | None = None) -> Ran:
        return run_tool(build_goref(tool), arguments, env)

    return run


@pytest.fixture(scope="session")
def run_binary() -> Callable[..., Ran]:
    """run_binary(path, "--model", …, env={…}) runs any program in the same clean environment."""

    def run(path: Path, *arguments: object, env: Mapping[str, str] | None = None) -> Ran:
        return run_tool(path, arguments, env)

    return run


@pytest.fixture(scope="session")
def micro() -> Micro:
    """The micro model in f32; micro.replace(linear=…) gives another."""
    return Micro()
