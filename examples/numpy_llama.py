"""A Llama in numpy, read from a GGUF file: the runtime that session_server.py puts behind conform's protocol.

It is small, and slow: it computes in float64, and every position anew for each token.
"""

import re
from itertools import pairwise

import numpy as np
from gguf import GGUFReader, dequantize
from numpy.typing import NDArray


class Llama:
    """One model with its SentencePiece vocabulary."""

    def __init__(self, path: str) -> None:
        reader = GGUFReader(path)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        self.layers: int = keys["llama.block_count"]
        self.context: int = keys["llama.context_length"]
        self._heads = keys["llama.attention.head_count"]
        self._kv_heads = keys["llama.attention.head_count_kv"]
        self._base = keys["llama.rope.freq_base"]
        self._eps = keys["llama.attention.layer_norm_rms_epsilon"]
        self._bos, self._pieces = keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.tokens"]
        self._scores = keys["tokenizer.ggml.scores"]
        normal = (i for i, kind in enumerate(keys["tokenizer.ggml.token_type"]) if kind in {1, 6})  # and bytes
        self._ids = {self._pieces[i]: i for i in normal}
        self._tensors = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, behind BOS."""
        parts = list("▁" + text.replace(" ", "▁")) if text else []
        while (first := self._best_pair(parts)) is not None:
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        pieces = [[part] if part in self._ids else [f"<0x{byte:02X}>" for byte in part.encode()] for part in parts]
        return [self._bos, *(self._ids[piece] for found in pieces for piece in found)]

    def decode(self, token: int) -> bytes:
        """What a token prints."""
        byte = re.fullmatch("<0x([0-9A-F]{2})>", self._pieces[token])
        return bytes([int(byte[1], 16)]) if byte else self._pieces[token].replace("▁", " ").encode()

    def hidden(self, ids: list[int]) -> NDArray[np.float64]:
        """(positions, hidden): the final hidden states, behind the output norm."""
        x = self._tensors["token_embd.weight"][ids]
        for layer in range(self.layers):
            x = x + self._attention(layer, self._norm(x, f"blk.{layer}.attn_norm"))
            normed = self._norm(x, f"blk.{layer}.ffn_norm")
            gate, up = (self._times(normed, f"blk.{layer}.ffn_{name}") for name in ("gate", "up"))
            x = x + self._times(gate / (1 + np.exp(-gate)) * up, f"blk.{layer}.ffn_down")
        return self._norm(x, "output_norm")

    def logits(self, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
        """The logits of the whole vocabulary."""
        return self._times(hidden, "output" if "output.weight" in self._tensors else "token_embd")

    def _best_pair(self, parts: list[str]) -> int | None:
        """Where the pair with the best score begins, the first of equals; None when no two parts are a piece."""
        scores = {i: self._scores[self._ids[a + b]] for i, (a, b) in enumerate(pairwise(parts)) if a + b in self._ids}
        return max(scores, key=scores.__getitem__, default=None)

    def _attention(self, layer: int, x: NDArray[np.float64]) -> NDArray[np.float64]:
        heads = {"q": self._heads, "k": self._kv_heads, "v": self._kv_heads}
        split = {n: self._times(x, f"blk.{layer}.attn_{n}").reshape(len(x), count, -1) for n, count in heads.items()}
        q, k = self._rotated(split["q"]), self._rotated(split["k"])
        k, v = (np.repeat(shared, self._heads // self._kv_heads, axis=1) for shared in (k, split["v"]))
        future = np.triu(np.full((len(x), len(x)), -np.inf), 1)
        weights = np.exp(np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1]) + future)
        mixed = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
        return self._times(mixed.reshape(len(x), -1), f"blk.{layer}.attn_output")

    def _rotated(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        width = x.shape[-1]
        angles = np.outer(np.arange(len(x)), self._base ** -(np.arange(0, width, 2) / width))[:, None]
        turned = (x[..., ::2] + 1j * x[..., 1::2]) * np.exp(1j * angles)
        return np.stack([turned.real, turned.imag], -1).reshape(x.shape)

    def _norm(self, x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self._eps) * self._tensors[f"{name}.weight"]

    def _times(self, x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return x @ self._tensors[f"{name}.weight"].T
