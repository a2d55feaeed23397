import dataclasses
import hashlib
import io
import json
import random

import numpy as np
import pytest
from safetensors.numpy import save_file

from conform.contract.infer import SENTENCEPIECE_BPE, STANDARD_STORAGE
from conform.contract.inventory import inventory
from conform.contract.spec import Contract, ModelSpec
from conform.core.checkpoint.sidecar import Sidecar, write_sidecar
from conform.core.files.digest import file_sha256
from conform.plugins.host import load_registry

VOCAB = 400


@pytest.fixture(scope="session")
def registry():
    return load_registry()


@pytest.fixture(scope="session")
def micro():
    """A contract as small as every quantizer allows: heads / kv_heads differ from kv_heads, nothing is square."""
    model = ModelSpec(
        architecture="llama",
        layers=2,
        hidden=256,
        heads=8,
        kv_heads=2,
        head_dim=32,
        ffn=512,
        vocab=VOCAB,
        context=128,
        rope_base=10000.0,
        rope_dim=32,
        norm_eps=1e-5,
        tied_embeddings=True,
        sub_norms=False,
        linear="dense",
        dtype="bf16",
    )
    return Contract("micro", "For tests.", model, SENTENCEPIECE_BPE, STANDARD_STORAGE)


@pytest.fixture(scope="session")
def micro_ternary(micro):
    return variant(micro, linear="ternary")


@pytest.fixture(scope="session")
def tokenizer_bytes():
    """A SentencePiece model of VOCAB pieces, trained by the recipe of the contract."""
    import sentencepiece

    rng = random.Random(1)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(400)]
    text = [" ".join(rng.choices(words, k=12)) for _ in range(300)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def variant(contract, **changes):
    """The contract with fields of its model replaced."""
    return dataclasses.replace(contract, model=dataclasses.replace(contract.model, **changes))


def random_weights(contract, seed=0):
    """Not degenerate: norms differ from 1, every matrix has a scale and a mean of its own."""
    rng = np.random.default_rng(seed)
    weights = {}
    for spec in inventory(contract.model):
        values = rng.standard_normal(spec.shape).astype(np.float32)
        weights[spec.name] = 1 + 0.1 * values if len(spec.shape) == 1 else values * rng.uniform(0.01, 0.05)
    return {name: values.astype(np.float32) for name, values in weights.items()}


def write_checkpoint(folder, contract, tokenizer, weights=None, *, seed=0, sidecar=True):
    """A checkpoint's folder as the trainer writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights or random_weights(contract, seed), folder / "model.safetensors")
    (folder / "tokenizer.model").write_bytes(tokenizer)
    if sidecar:
        names = ("model.safetensors", "tokenizer.model")
        files = {name: file_sha256(folder / name) for name in names}
        write_sidecar(folder, Sidecar(contract, contract.digest, files, hashlib.sha256(tokenizer).hexdigest()))
    return folder


@pytest.fixture(scope="session")
def write_raw():
    """Write a safetensors file of (dtype, shape, bytes) by name: NumPy lacks some of the dtypes."""

    def write(path, raw):
        header, body = {}, b""
        for name, (dtype, shape, content) in raw.items():
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(body), len(body) + len(content)]}
            body += content
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + body)

    return write


@pytest.fixture
def checkpoint(tmp_path, micro, tokenizer_bytes):
    """The folder of a complete checkpoint of `micro`."""
    return write_checkpoint(tmp_path / "checkpoint", micro, tokenizer_bytes)


@pytest.fixture
def ternary_checkpoint(tmp_path, micro_ternary, tokenizer_bytes):
    return write_checkpoint(tmp_path / "ternary", micro_ternary, tokenizer_bytes)


@pytest.fixture(scope="session")
def make_checkpoint(tokenizer_bytes):
    """Write a checkpoint of a contract into a folder: (folder, contract, weights=None, seed=0, sidecar=True)."""

    def make(folder, contract, weights=None, **options):
        return write_checkpoint(folder, contract, tokenizer_bytes, weights, **options)

    return make
