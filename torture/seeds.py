"""Seeds: the sound files of the corpus, made anew by conform's own commands when a format changes.

    python -m torture.seeds

They are as small as every format allows; `corpus/found` is left alone.
"""

import dataclasses
import gzip
import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors
from torch import Tensor

from conform.contract.dump import dump_contract
from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.contract.spec import Contract
from conform.core.export.cost import Cost
from conform.core.export.journal import ExportJournal
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.trainer.data.journal import BuildJournal, Progress
from conform.trainer.data.manifest import SPLITS, Shard
from conform.trainer.importance.measure import SquareSums, write_partial
from torture.readers import CORPUS, FINGERPRINT, PROVENANCE

_SMALL = {
    "layers": 1,
    "hidden": 32,
    "heads": 2,
    "kv_heads": 1,
    "head_dim": 16,
    "rope_dim": 16,
    "ffn": 32,
    "vocab": 320,
    "context": 64,
}
_WIDE = {**_SMALL, "hidden": 128, "heads": 8, "ffn": 128, "linear": "ternary"}


def main() -> None:
    """Make every folder of the corpus but `found`."""
    with TemporaryDirectory() as name:
        work = Path(name)
        _make(work)
        for folder in sorted(path for path in (work / "corpus").iterdir()):
            shutil.rmtree(CORPUS / folder.name, ignore_errors=True)
            shutil.copytree(folder, CORPUS / folder.name)


def _make(work: Path) -> None:
    corpus = work / "corpus"
    for name in ("text", "contract", "config", "legacy", "wide", "journal", "bytelevel"):
        (corpus / name).mkdir(parents=True)
    _write_texts(corpus / "text")
    contract = _contract("small", _SMALL)
    (corpus / "contract/contract.toml").write_text(dump_contract(contract))
    settings = "steps = 4\nbatch = 2\nsequence = 16\nwarmup = 0.5\neval_sequences = 4\nsave_every = 2\n"
    (corpus / "config/config.toml").write_text(settings)
    _conform(work, "tokenizer", "train", "--input", "corpus/text/a.txt", "--vocab", "320", "-o", "tokenizer")
    shutil.copytree(work / "tokenizer", corpus / "tokenizer")
    _write_byte_level(corpus / "text/a.txt", corpus / "bytelevel/tokenizer.json")
    _write_settings(work / "tokenizer/tokenizer.model", corpus / "settings")
    _conform(
        *(work, "data", "build", "--input", "corpus/text/lines.jsonl", "--tokenizer", "tokenizer"),
        *("-o", "corpus/data", "--shard-tokens", "2000", "--held-out", "0.2"),
    )
    _conform(
        *(work, "train", "--contract", "corpus/contract/contract.toml", "--data", "corpus/data"),
        *("--config", "corpus/config/config.toml", "--threads", "1", "--out", "corpus/run"),
    )
    _forget_places(corpus / "run/run.json")
    shutil.rmtree(corpus / "run/checkpoints/step-00000002")
    step = corpus / "run/checkpoints/step-00000004"
    shutil.copytree(step, corpus / "model", ignore=shutil.ignore_patterns("resume"))
    _conform(work, "export", "corpus/model", "--quant", "q8_0", "-o", "corpus/model/model.gguf")
    _conform(
        *(work, "imatrix", "measure", "corpus/model", "--data", "corpus/data", "-o", "corpus/model/imatrix.gguf"),
        *("--chunks", "2", "--sequence", "16", "--batch", "2"),
    )
    _conform(work, "plugins", "certify", "f16", "--json", "corpus/model/receipt.json")
    (corpus / "legacy/imatrix.dat").write_bytes(_legacy_imatrix())
    _write_wide(work, corpus / "wide")
    _write_sharded(corpus / "model", corpus / "sharded")
    _write_packed(corpus / "packed")
    _write_fp8(corpus / "fp8")
    _write_unfinished(contract, corpus)


def _conform(work: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "conform.core.cli", *arguments], cwd=work, check=True)


def _contract(name: str, sizes: dict[str, object]) -> Contract:
    tiny = load_contract("tiny")
    model = dataclasses.replace(tiny.model, **sizes)
    return dataclasses.replace(tiny, name=name, why="For torture.", model=model)


def _write_texts(folder: Path) -> None:
    lines = [f"The {n}th of {n * n} birds sings {n * 7 % 13} songs; größer, 東京, \U0001f426." for n in range(120)]
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    (folder / "lines.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    with gzip.GzipFile(folder / "a.txt.gz", "wb", mtime=0) as file:
        file.write("\n".join(lines).encode())
    import pyarrow
    import zstandard
    from pyarrow import parquet

    (folder / "a.txt.zst").write_bytes(zstandard.compress("\n".join(lines).encode()))
    parquet.write_table(pyarrow.table({"text": lines}), folder / "rows.parquet")


def _write_byte_level(text: Path, target: Path) -> None:
    """A byte-level BPE of 40 merges with an added token, and BOS before every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=298, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.train([str(text)], trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(target), pretty=False)


def _write_settings(model: Path, folder: Path) -> None:
    """A stranger's tokenizer: the same model with every file of settings beside it."""
    folder.mkdir()
    shutil.copy(model, folder)
    bos, sequence = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    added = {"id": 320, "content": "<|im_end|>", "special": True, "lstrip": False, "rstrip": False}
    files = {
        "tokenizer_config": {
            "add_bos_token": True,
            "add_eos_token": False,
            "add_prefix_space": True,
            "bos_token": {"content": "<s>"},
            "eos_token": "<|im_end|>",
            "pad_token": None,
            "added_tokens_decoder": {"320": {"content": "<|im_end|>", "special": True}},
            "additional_special_tokens": ["<|im_end|>"],
            "chat_template": "{{ messages }}",
        },
        "special_tokens_map": {"bos_token": "<s>", "unk_token": {"content": "<unk>"}},
        "added_tokens": {"<|im_end|>": 320, "<tool>": 321},
        "generation_config": {"bos_token_id": 1, "eos_token_id": [320, 2]},
        "tokenizer": {
            "added_tokens": [added],
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False},
            "post_processor": {"type": "TemplateProcessing", "single": [bos, sequence]},
            "model": {"type": "BPE", "vocab": {p: n for n, p in enumerate(read_vocabulary(model).pieces)}},
        },
    }
    for stem, content in files.items():
        (folder / f"{stem}.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def _forget_places(record: Path) -> None:
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "data": "/data"}, indent=1) + "\n")


def _legacy_imatrix() -> bytes:
    out = struct.pack("<i", 2)
    for name in (b"blk.0.attn_q.weight", b"blk.0.ffn_up.weight"):
        out += struct.pack("<i", len(name)) + name + struct.pack("<ii", 3, 32) + np.ones(32, "<f4").tobytes()
    return out + struct.pack("<ii", 3, 4) + b"text"


def _write_wide(work: Path, folder: Path) -> None:
    """A ternary model, untrained, as i2_s."""
    contract = _contract("wide", _WIDE)
    (work / "wide.toml").write_text(dump_contract(contract))
    (work / "wide").mkdir()
    random = np.random.default_rng(1)
    weights = {spec.name: random.standard_normal(spec.shape).astype(np.float32) for spec in inventory(contract.model)}
    save_file(weights, work / "wide/model.safetensors")
    shutil.copy(work / "tokenizer/tokenizer.model", work / "wide")
    _conform(
        *(work, "export", "wide", "--contract", "wide.toml", "--quant", "i2_s", "--type", "token_embd=q8_0"),
        *("-o", str(folder / "model.gguf")),
    )


def _write_sharded(model: Path, folder: Path) -> None:
    """The same weights in two files and an index."""
    folder.mkdir()
    weights = load_file(model / "model.safetensors")
    names = sorted(weights)
    shards = {"a.safetensors": names[:3], "b.safetensors": names[3:]}
    for shard, held in shards.items():
        save_file({name: weights[name] for name in held}, folder / shard)
    where = {name: shard for shard, held in shards.items() for name in held}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}, indent=1))


def _write_packed(folder: Path) -> None:
    """Ternary codes, four in a byte, and as values of -1, 0 and 1."""
    codes = torch.from_numpy(np.random.default_rng(2).integers(0, 3, (4, 2, 24)).astype(np.uint8))
    packed = codes[0] | codes[1] << 2 | codes[2] << 4 | codes[3] << 6
    weights = {"layers.0.a_proj.weight": packed, "layers.0.b_proj.weight": codes[0].float() - 1}
    scales = {f"{name}_scale": torch.full((1,), 0.5) for name in weights}
    _write_quantised(folder, {**weights, **scales}, {"quant_method": "bitnet", "linear_class": "autobitlinear"})


def _write_fp8(folder: Path) -> None:
    """E4M3 values with a scale for each block of 3 rows and 5 columns."""
    random = np.random.default_rng(3)
    values = torch.from_numpy(random.standard_normal((8, 24))).to(torch.float8_e4m3fn)
    scales = torch.from_numpy(random.random((3, 5)).astype(np.float32))
    weights = {"layers.0.a_proj.weight": values, "layers.0.a_proj.weight_scale_inv": scales}
    _write_quantised(folder, weights, {"quant_method": "fp8", "weight_block_size": [3, 5]})


def _write_quantised(folder: Path, weights: dict[str, Tensor], settings: Mapping[str, object]) -> None:
    folder.mkdir()
    save_tensors(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"quantization_config": settings}, indent=1) + "\n")


def _write_unfinished(contract: Contract, corpus: Path) -> None:
    """What an interrupted export, data build and measurement leave behind."""
    cost = Cost(1.0, 0.5, 1.0, 0.25)
    journal = ExportJournal(corpus / "journal/model.gguf", FINGERPRINT, resume=False)
    with suppress(KeyboardInterrupt), journal:
        journal.add("token_embd.weight", "0" * 64, cost)
        journal.add("blk.0.attn_q.weight", "1" * 64, cost)
        raise KeyboardInterrupt
    progress = {name: Progress([Shard(f"{name}-00000.bin", 7, "2" * 64)], 3, "3" * 64, 2, 40) for name in SPLITS}
    BuildJournal(FINGERPRINT, 1, 2, {"not UTF-8": 1}, progress).write(corpus / "journal")
    sums = SquareSums.zeros(contract.model)
    write_partial(corpus / "legacy/partial.safetensors", sums, PROVENANCE)


if __name__ == "__main__":
    main()
