"""A micro model with a real tokenizer, exported by the real exporter, and the real Go runtime."""

import dataclasses
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import save_file

from conform.contract.inventory import inventory
from conform.contract.load import load_contract
from conform.contract.spec import Contract, ModelSpec
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.checkpoint.sidecar import Sidecar, write_sidecar
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.files.digest import file_sha256
from conform.core.runtime import Limits, RuntimeDriver
from conform.core.tokenizer.tokenizer import tokenizer_of
from conform.core.verify.verify import open_gguf
from conform.parity.candidate import Candidate, Source
from conform.parity.drivers.bitnet_go import BitnetGo, BitnetGoDriver
from conform.parity.goref.patch import Edit, patched_sources
from conform.parity.goref.toolchain import build_goref
from conform.parity.launcher import Launcher
from conform.parity.questions.prompts import HOSTILE_TEXTS, PROSE
from conform.parity.questions.sequences import Scope
from conform.parity.questions.tokenizer import open_tokenizer, tokenizer_of_file
from conform.parity.verdict import Verdict
from conform.plugins.host import load_registry
from conform.plugins.registry import Registry

LIMITS = Limits(seconds=60.0, memory=2 << 30)
SMALL_SCOPE = Scope(max_tokens=7, forced_positions=8, longest=40, texts=HOSTILE_TEXTS[1:6])


def micro_contract(architecture: str = "llama", linear: str = "dense", sub_norms: bool = False) -> Contract:
    """Six heads over two kv heads, no square projection, every row a multiple of 128."""
    nano = load_contract("nano")
    model = dataclasses.replace(
        nano.model,
        architecture=architecture,
        linear=linear,
        sub_norms=sub_norms,
        layers=2,
        hidden=512,
        heads=6,
        kv_heads=2,
        head_dim=64,
        rope_dim=64,
        ffn=256,
        vocab=512,
        context=128,
    )
    return dataclasses.replace(nano, name="micro", model=model)


def random_weights(model: ModelSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Weights large enough that logits are of the size of a trained model's, and norms that are not 1."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for spec in inventory(model):
        if spec.storage_class == "norm":
            values = rng.uniform(0.5, 1.5, spec.shape)
        elif spec.storage_class == "linear":
            values = rng.normal(0, spec.shape[1] ** -0.5, spec.shape)
        else:
            values = rng.normal(0, 0.1, spec.shape)
        tensors[spec.name] = values.astype(np.float32)
    return tensors


@pytest.fixture(scope="session")
def micro() -> Contract:
    return micro_contract()


@pytest.fixture(scope="session")
def micro_ternary() -> Contract:
    return micro_contract(linear="ternary")


@pytest.fixture(scope="session")
def micro_bitnet() -> Contract:
    return micro_contract("bitnet-b1.58", "ternary", sub_norms=True)


@pytest.fixture(scope="session")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece BPE model of 512 pieces, by the recipe that the Go runtime can agree with."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*PROSE.split(". "), *HOSTILE_TEXTS[10:]] * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=512,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=0.98,
        num_threads=1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())
    return path


def byte_level_contract(pre: str, *, add_bos: bool) -> Contract:
    """The micro contract with a byte-level tokenizer, whose pieces 0 and 1 are BOS and EOS."""
    micro = micro_contract()
    changes = {"model": "byte-level", "pre": pre, "byte_fallback": False, "add_dummy_prefix": False}
    ids = {"unk_id": -1, "bos_id": 0, "eos_id": 1, "pad_id": -1, "add_bos": add_bos}
    tokenizer = dataclasses.replace(micro.tokenizer, **changes, **ids)
    return dataclasses.replace(micro, name=f"micro-{pre}", tokenizer=tokenizer)


@pytest.fixture(scope="session")
def micro_smollm() -> Contract:
    return byte_level_contract("smollm", add_bos=False)


@pytest.fixture(scope="session")
def micro_llama3() -> Contract:
    return byte_level_contract("llama-bpe", add_bos=True)


def with_template(data: dict[str, Any], *, bos: bool) -> dict[str, Any]:
    """The same tokenizer.json with the first piece before every text, or nothing."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    begin = {"SpecialToken": {"id": "<|begin|>", "type_id": 0}}
    special = {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}}
    single = [begin, text] if bos else [text]
    template = {"type": "TemplateProcessing", "single": single, "pair": [text], "special_tokens": special}
    return data | {"post_processor": template}


@pytest.fixture(scope="session")
def make_checkpoint(
    tokenizer_model: Path, make_tokenizer_json: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Contract], Path]:
    """Writes a checkpoint folder of random weights for a contract; one for each contract."""
    made: dict[str, Path] = {}

    def make(contract: Contract) -> Path:
        if contract.digest not in made:
            folder = tmp_path_factory.mktemp("checkpoint")
            save_file(random_weights(contract.model), folder / "model.safetensors")
            tokenizer = "tokenizer.model"
            if contract.tokenizer.model == "byte-level":
                tokenizer = "tokenizer.json"
                data = make_tokenizer_json(512, contract.tokenizer.pre)
                settings = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
                (folder / "tokenizer.json").write_text(json.dumps(with_template(data, bos=contract.tokenizer.add_bos)))
                (folder / "tokenizer_config.json").write_text(json.dumps(settings))
            else:
                (folder / tokenizer).write_bytes(tokenizer_model.read_bytes())
            files = {name: file_sha256(folder / name) for name in ("model.safetensors", tokenizer)}
            write_sidecar(
                folder, Sidecar(contract, contract.digest, files, files[tokenizer], trainer={"conform": "test"})
            )
            made[contract.digest] = folder
        return made[contract.digest]

    return make


@pytest.fixture(scope="session")
def registry() -> Registry:
    return load_registry()


@pytest.fixture(scope="session")
def make_gguf(make_checkpoint, registry) -> Callable[[Contract, str], Path]:
    """Exports the checkpoint of a contract in one quantisation, beside it."""

    def make(contract: Contract, quant: str) -> Path:
        folder = make_checkpoint(contract)
        target = folder / f"micro-{quant}.gguf"
        if not target.exists():
            opened = open_checkpoint(folder)
            assert opened.tokenizer_path is not None
            vocabulary = tokenizer_of(opened.tokenizer_path, contract).vocabulary
            run_export(plan_export(opened, contract, vocabulary, registry, quant, target))
        return target

    return make


@pytest.fixture(scope="session")
def goref() -> Path:
    return build_goref()


@pytest.fixture(scope="session")
def make_runtime(goref, registry) -> Callable[..., BitnetGo]:
    def make(gguf: Path, program: Path = goref, limits: Limits = LIMITS) -> BitnetGo:
        return BitnetGoDriver().open(program, open_gguf(gguf, registry), limits)

    return make


@pytest.fixture(scope="session")
def judged_file(goref, registry) -> Callable[..., Verdict]:
    """The verdict on a file that was exported from, or damaged after the export from, a checkpoint."""

    from conform.parity.judgement import judge  # imports torch, which the tests of single rungs do without

    def run(
        gguf: Path,
        checkpoint: Path | None,
        program: Path = goref,
        scope: Scope = SMALL_SCOPE,
        driver: RuntimeDriver | None = None,
    ) -> Verdict:
        file = open_gguf(gguf, registry)
        source, tokenizer = None, tokenizer_of_file(file)
        if checkpoint is not None:
            opened = open_checkpoint(checkpoint)
            assert opened.sidecar is not None
            assert opened.tokenizer_path is not None
            source = Source(opened, opened.sidecar.contract)
            tokenizer = open_tokenizer(opened.tokenizer_path, source.contract.tokenizer)
        launcher = Launcher(driver or BitnetGoDriver(), "gguf-conform", program, LIMITS)
        candidate = Candidate(file, launcher.open(file), registry, source, tokenizer, launcher)
        return judge(candidate, scope, LIMITS, keep_going=True)

    return run


@pytest.fixture(scope="session")
def mutated_goref() -> Callable[..., Path]:
    """mutated_goref(tmp, [(file, old, new), …]) is a bitnet built below tmp from sources with these edits.

    The companions named in `tools` lie beside it.
    """

    def build(
        tmp: Path,
        edits: Sequence[tuple[str, str, str]],
        tools: Sequence[str] = ("bitnet", "tokenize", "ggufhash"),
    ) -> Path:
        sources = patched_sources([Edit(*edit) for edit in edits], tmp / "goref")
        for folder in (sources / "cmd").iterdir():
            if folder.name not in tools:
                shutil.rmtree(folder)
        return build_goref("bitnet", sources, tmp)

    return build
