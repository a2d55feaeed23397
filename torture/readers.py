"""Readers: everything in conform that reads a file which a stranger may have made, with a sound file to start from.

A reader is given a folder of the corpus in which one file is damaged. It may use what it finds or refuse it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from conform.contract.errors import ConformError
from conform.contract.finding import Finding
from torture.mutate import (
    Mutation,
    json_lines,
    json_values,
    mutated_bytes,
    protobuf_fields,
    safetensors_values,
    toml_values,
)
from torture.mutate_gguf import gguf_parts

__all__ = ["CORPUS", "FINGERPRINT", "FOUND", "PROVENANCE", "READERS", "Reader"]

CORPUS = Path(__file__).parent / "corpus"
"""The sound files, as `python -m torture.seeds` makes them."""
FOUND = CORPUS / "found"
"""FOUND/READER/NAME: a file that READER did not bear once; it is tried first in every run."""
FINGERPRINT = "f" * 64
"""What the journals of the corpus say that they are of."""
PROVENANCE = {"conform.imatrix.data": "x"}
"""What the unfinished importance matrix of the corpus says that it was measured on."""


@dataclass(frozen=True, slots=True)
class Reader:
    """`folder` of the corpus holds `file`, which is damaged; `read` is given the folder.

    `sign` makes a damaged file's own digest right again. One that `streams` reads a file of any size to its end.
    """

    name: str
    folder: str
    file: str
    read: Callable[[Path], object]
    structure: Mutation = mutated_bytes
    sign: Callable[[bytes], bytes] = bytes
    streams: bool = False


def _contract(folder: Path) -> None:
    from conform.contract.dump import dump_contract
    from conform.contract.inventory import inventory
    from conform.contract.load import load_contract

    contract = load_contract(str(folder / "contract.toml"))
    inventory(contract.model)
    dump_contract(contract)


def _config(folder: Path) -> None:
    from conform.trainer.config import config_to_toml, read_config, resolved

    config = read_config(str(folder / "config.toml"))
    config_to_toml(config)
    resolved(config, ternary=False, context=64, world=1, device="cpu", bfloat16=False)


def _checkpoint(folder: Path) -> None:
    from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint

    checkpoint = open_checkpoint(folder)
    contract_of(checkpoint, None)
    checkpoint.hash_files()


def _weights(folder: Path) -> None:
    from conform.core.checkpoint.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(folder / "model.safetensors")
    for name in checkpoint.tensors:
        with suppress(ConformError):
            checkpoint.check_finite(name)
        with suppress(ConformError):
            checkpoint.read(name)


def _shards(folder: Path) -> None:
    from conform.core.checkpoint.checkpoint import open_checkpoint

    open_checkpoint(folder / "model.safetensors.index.json")


def _hf_config(folder: Path) -> None:
    from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint

    (folder / "conform.json").unlink(missing_ok=True)
    contract_of(open_checkpoint(folder), None)


def _vocabulary(folder: Path) -> None:
    from conform.contract.load import load_contract
    from conform.core.tokenizer.tokenizer import read_vocabulary
    from conform.core.tokenizer.vocabulary import check_vocabulary

    check_vocabulary(read_vocabulary(folder / "tokenizer.model"), load_contract("tiny"))


def _byte_level(folder: Path) -> None:
    from conform.contract.load import load_contract
    from conform.core.tokenizer.tokenizer import tokenizer_of

    tokenizer_of(folder / "tokenizer.json", load_contract("tiny"))


def _byte_level_prompts(folder: Path) -> None:
    from conform.parity.questions.tokenizer import open_tokenizer

    open_tokenizer(folder / "tokenizer.json", None).ids("The 12th of 東京\n <tool>")


def _tokenizer(folder: Path) -> None:
    from conform.trainer.tokenizer.check import check_tokenizer
    from conform.trainer.tokenizer.recipe import semantic_digest

    check_tokenizer(folder)
    semantic_digest(folder)


def _settings(folder: Path) -> None:
    from conform.contract.load import load_contract
    from conform.core.tokenizer.infer import infer_tokenizer
    from conform.core.tokenizer.tokenizer import tokenizer_of

    infer_tokenizer(folder, 330)
    _sent(folder, tokenizer_of(folder / "tokenizer.model", load_contract("tiny")).findings)


def _prompts(folder: Path) -> None:
    from conform.parity.questions.tokenizer import open_tokenizer

    open_tokenizer(folder / "tokenizer.model", None).ids("The 12th of 東京\n")


def _gguf(folder: Path) -> None:
    from conform.contract.load import load_contract
    from conform.core.verify.verify import open_gguf, verify_file

    path = folder / "model.gguf"
    with suppress(ConformError):
        _sent(folder, verify_file(path, _registry(), load_contract("tiny")).findings)
    _sent(folder, verify_file(path, _registry()).findings)
    file = open_gguf(path, _registry())
    for name in file.tensors:
        with suppress(ConformError):
            file.packed(name)


def _repack(folder: Path) -> None:
    from conform.core.gguf.read import read_gguf
    from conform.core.i2_s.repack import find_layout, repack

    file = read_gguf(folder / "model.gguf")
    repack(file, find_layout(file, None, None), "arm", folder / "out.gguf")


def _imatrix(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from conform.contract.inventory import inventory
        from conform.core.gguf.imatrix import check_imatrix, read_imatrix
        from conform.trainer.cli.imatrix import show
        from conform.trainer.importance.measure import merge

        matrix = read_imatrix(folder / name)
        matrix.weights()
        check_imatrix(matrix, inventory(_small_model()))
        if matrix.entries:
            merge([matrix, matrix])
        show.main([str(folder / name), "--json", str(folder / "report.json")], standalone_mode=False)

    return read


def _export_journal(folder: Path) -> None:
    from conform.core.export.journal import ExportJournal

    for _, cost in ExportJournal(folder / "model.gguf", FINGERPRINT, resume=True).done.values():
        assert cost.relative_error >= 0
        assert cost.weighted_relative_error >= 0


def _build_journal(folder: Path) -> None:
    from conform.trainer.data.journal import read_journal

    read_journal(folder, FINGERPRINT)


def _data(folder: Path) -> None:
    from conform.trainer.data.loader import TokenLoader
    from conform.trainer.data.verify import verify_data

    _sent(folder, verify_data(folder))
    with TokenLoader(folder, 16, 2, 1, verify="full") as loader:
        loader.batch(0)
        next(loader.held_out(2))


def _metrics(folder: Path) -> None:
    from conform.trainer.run.metrics import Metrics, read_metrics
    from conform.trainer.run.report import curves

    with suppress(ConformError):
        curves(list(read_metrics(folder)))
    Metrics(folder, 2).close()


def _report(folder: Path) -> None:
    from conform.trainer.run.report import run_report

    run_report(folder).encode()


def _run(folder: Path) -> None:
    from conform.trainer.run.folder import RunFolder

    run = RunFolder(folder)
    run.finished()
    run.update(run.read_record())
    run.read(folder.parent / "data")


def _state(folder: Path) -> None:
    from conform.trainer.checkpoints.state import read_state

    state = read_state(folder / "checkpoints/step-00000004/resume/state.json")
    state.to_json().encode()
    state.environment.differences(state.environment)


def _random_state(folder: Path) -> None:
    import torch

    from conform.trainer.checkpoints.state import restore_random

    path = folder / "checkpoints/step-00000004/resume/random-00000.json"
    restore_random(path, torch.device("cpu"))


def _resume(folder: Path) -> None:
    from conform.trainer.checkpoints.store import CheckpointStore

    store = CheckpointStore(folder)
    store.newest()
    store.annotate(4, {"loss": 1.0})


def _restore(folder: Path) -> None:
    import torch

    from conform.trainer.checkpoints.restore import restore
    from conform.trainer.checkpoints.state import read_state
    from conform.trainer.distributed.world import World
    from conform.trainer.model.model import Llama
    from conform.trainer.run.optimizer import build_optimizer

    path = folder / "checkpoints/step-00000004"
    model = Llama(_small_model())
    optimizer = build_optimizer(model, _plain_config())
    restore(path, read_state(path / "resume/state.json"), model, optimizer, World(0, 1, torch.device("cpu")))


def _partial(folder: Path) -> None:
    from conform.trainer.importance.measure import read_partial

    read_partial(folder / "partial.safetensors", _small_model(), PROVENANCE)


def _receipt(folder: Path) -> None:
    from conform.plugins.cli.plugins import plugins

    plugins.main(
        ["receipt", str(folder / "receipt.json"), "--json", str(folder / "report.json")], standalone_mode=False
    )


def _documents(name: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        from conform.trainer.data.corpus import read_documents
        from conform.trainer.data.sources import find_sources, source_sha256

        for source in find_sources([str(folder / name)]):
            source_sha256(source)
            for document in read_documents(source, on_bad=lambda _where, _what: None):
                document.text.encode()

    return read


def _sent(folder: Path, findings: Sequence[Finding]) -> None:
    from conform.core.cli.output import write_json

    write_json([finding.to_json() for finding in findings], str(folder / "report.json"))


@cache
def _registry() -> Any:
    from conform.plugins.host import load_registry

    return load_registry()


@cache
def _small_model() -> Any:
    from conform.contract.load import load_contract

    return load_contract(str(CORPUS / "contract/contract.toml")).model


def _plain_config() -> Any:
    from conform.trainer.config import TrainConfig

    return TrainConfig()


def _sign(key: str, dumped: Callable[[Any], str]) -> Callable[[bytes], bytes]:
    """Put the right digest under `key` of a JSON object; anything else is left as it is."""

    def sign(content: bytes) -> bytes:
        try:
            facts = json.loads(content)
            del facts[key]
            return json.dumps({**facts, key: hashlib.sha256(dumped(facts).encode()).hexdigest()}).encode()
        except (ValueError, TypeError, KeyError, RecursionError):
            return content

    return sign


def _canonical(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True)


def _compact(facts: Any) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


_RESUME = "checkpoints/step-00000004/resume"
_WEIGHTS = "checkpoints/step-00000004/model.safetensors"
_OPTIMIZER = "checkpoints/step-00000004/resume/optimizer.safetensors"

READERS = (
    Reader("contract", "contract", "contract.toml", _contract, toml_values),
    Reader("training config", "config", "config.toml", _config, toml_values),
    Reader("sidecar", "model", "conform.json", _checkpoint, json_values),
    Reader("safetensors", "model", "model.safetensors", _weights, safetensors_values),
    Reader("ternary codes", "packed", "model.safetensors", _weights, safetensors_values),
    Reader("stored form of ternary codes", "packed", "config.json", _weights, json_values),
    Reader("fp8 blocks", "fp8", "model.safetensors", _weights, safetensors_values),
    Reader("stored form of fp8 blocks", "fp8", "config.json", _weights, json_values),
    Reader("safetensors index", "sharded", "model.safetensors.index.json", _shards, json_values),
    Reader("config.json", "model", "config.json", _hf_config, json_values),
    Reader("vocabulary", "tokenizer", "tokenizer.model", _vocabulary, protobuf_fields),
    Reader("tokenizer settings", "settings", "tokenizer_config.json", _settings, json_values),
    Reader("special tokens", "settings", "special_tokens_map.json", _settings, json_values),
    Reader("added tokens", "settings", "added_tokens.json", _settings, json_values),
    Reader("generation settings", "settings", "generation_config.json", _settings, json_values),
    Reader("tokenizer pipeline", "settings", "tokenizer.json", _settings, json_values),
    Reader("chat template", "settings", "chat_template.jinja", _settings),
    Reader("tokenizer check", "tokenizer", "tokenizer.model", _tokenizer, protobuf_fields),
    Reader("prompt tokenizer", "tokenizer", "tokenizer.model", _prompts, protobuf_fields),
    Reader("tokenizer.json", "bytelevel", "tokenizer.json", _byte_level, json_values),
    Reader("prompt tokenizer.json", "bytelevel", "tokenizer.json", _byte_level_prompts, json_values),
    Reader("gguf", "model", "model.gguf", _gguf, gguf_parts),
    Reader("gguf i2_s", "wide", "model.gguf", _gguf, gguf_parts),
    Reader("repack", "wide", "model.gguf", _repack, gguf_parts),
    Reader("imatrix gguf", "model", "imatrix.gguf", _imatrix("imatrix.gguf"), gguf_parts),
    Reader("imatrix dat", "legacy", "imatrix.dat", _imatrix("imatrix.dat")),
    Reader("unfinished imatrix", "legacy", "partial.safetensors", _partial, safetensors_values),
    Reader("export journal", "journal", ".model.gguf.journal", _export_journal, json_lines),
    Reader("build journal", "journal", "build.json", _build_journal, json_values, _sign("sha256", _canonical)),
    Reader("manifest", "data", "manifest.json", _data, json_values),
    Reader("token shard", "data", "train-00000.bin", _data),
    Reader("run record", "run", "run.json", _run, json_values),
    Reader("run config", "run", "config.toml", _run, toml_values),
    Reader("end of a run", "run", "complete.json", _run, json_values),
    Reader("metrics", "run", "metrics.jsonl", _metrics, json_lines),
    Reader("run report", "run", "metrics.jsonl", _report, json_lines),
    Reader("training state", "run", f"{_RESUME}/state.json", _state, json_values),
    Reader("random state", "run", f"{_RESUME}/random-00000.json", _random_state, json_values),
    Reader("training sidecar", "run", "checkpoints/step-00000004/conform.json", _resume, json_values),
    Reader("training weights", "run", _WEIGHTS, _restore, safetensors_values),
    Reader("optimizer", "run", _OPTIMIZER, _restore, safetensors_values),
    Reader("plugin receipt", "model", "receipt.json", _receipt, json_values, _sign("digest", _compact)),
    Reader("text", "text", "a.txt", _documents("a.txt"), streams=True),
    Reader("jsonl", "text", "lines.jsonl", _documents("lines.jsonl"), json_lines, streams=True),
    Reader("gzip", "text", "a.txt.gz", _documents("a.txt.gz"), streams=True),
    Reader("zstd", "text", "a.txt.zst", _documents("a.txt.zst"), streams=True),
    Reader("parquet", "text", "rows.parquet", _documents("rows.parquet"), streams=True),
)
