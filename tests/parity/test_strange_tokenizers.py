"""A stranger's tokenizer settings, from export to verdict: the runtime gets the tokens that the checkpoint means."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conform.core.export.request import ExportRequest, open_source, plan_request
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.tokenizer.infer import infer_tokenizer
from conform.parity.judgement import judge_runtime
from conform.parity.questions.prompts import HOSTILE_TEXTS
from conform.parity.questions.sequences import Scope
from conform.parity.questions.tokenizer import open_tokenizer
from conform.trainer.checkpoints.huggingface import huggingface_config

SCOPE = Scope(max_tokens=5, forced_positions=5, longest=24, texts=HOSTILE_TEXTS[1:4])
IM_END = {"content": "<|im_end|>", "special": True}
SETTINGS = {
    "no-bos": {"add_bos_token": False},
    "end-of-turn": {
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {"514": IM_END},
        "chat_template": "{{ messages }}",
    },
}


@pytest.fixture
def stranger(tmp_path, micro, make_checkpoint, registry):
    """The folder and the GGUF file of a checkpoint with config.json, some embedding rows more, and settings."""

    def made(settings, quant="f16"):
        ours = make_checkpoint(micro)
        wider = dataclasses.replace(micro, model=dataclasses.replace(micro.model, vocab=520))
        weights = load_file(ours / "model.safetensors")
        for name in {"model.embed_tokens.weight", "lm_head.weight"} & weights.keys():
            weights[name] = np.concatenate([weights[name], weights[name][:8]])
        save_file(weights, tmp_path / "model.safetensors")
        (tmp_path / "tokenizer.model").write_bytes((ours / "tokenizer.model").read_bytes())
        (tmp_path / "config.json").write_text(json.dumps(huggingface_config(wider)))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
        request = ExportRequest((quant,), output=str(tmp_path / "out.gguf"))
        (plan,) = plan_request(request, open_source(tmp_path, request), registry)
        run_export(plan)
        return tmp_path, tmp_path / "out.gguf"

    return made


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_the_runtime_gets_the_tokens_that_the_checkpoint_means(stranger, goref, registry, settings):
    folder, gguf = stranger(settings)
    verdict = judge_runtime(gguf, goref, registry=registry, checkpoint=folder, scope=SCOPE, assume_source=True)
    rungs = {rung.rung: rung for rung in verdict.rungs}
    for name in ("file", "tokens", "weights", "implementation", "greedy"):
        assert rungs[name].status == "pass", (name, rungs[name].reason)


def test_a_settings_file_that_says_another_thing_fails_the_file_rung(stranger, goref, registry):
    folder, gguf = stranger(SETTINGS["no-bos"])
    (folder / "tokenizer_config.json").write_text(json.dumps({"add_bos_token": True}))
    assert read_gguf(gguf).metadata["tokenizer.ggml.add_bos_token"] is False
    verdict = judge_runtime(gguf, goref, registry=registry, checkpoint=folder, scope=SCOPE, assume_source=True)
    (file,) = [rung for rung in verdict.rungs if rung.rung == "file"]
    assert file.status == "fail"
    assert "tokenizer.ggml.add_bos_token" in [finding.where for finding in file.findings]


def test_the_reference_has_the_contracts_dummy_prefix(tokenizer_model, micro):
    bare = dataclasses.replace(micro.tokenizer, add_dummy_prefix=False, add_bos=False)
    ours = dataclasses.replace(micro.tokenizer, add_bos=False)
    text = "of the text"
    assert open_tokenizer(tokenizer_model, ours).ids(text) == open_tokenizer(tokenizer_model, bare).ids(" " + text)


LIBRARY_SETTINGS = [
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_bos_token": True, "add_prefix_space": False},
    {"add_bos_token": True, "legacy": True},
    {"add_bos_token": True, "legacy": False},
]


@pytest.mark.parametrize("saved", [False, True], ids=["settings", "settings and tokenizer.json"])
@pytest.mark.parametrize("settings", LIBRARY_SETTINGS, ids=str)
def test_what_is_inferred_gives_the_ids_of_the_library(tmp_path, tokenizer_model, settings, saved):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    (tmp_path / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", **settings}))
    library = transformers.AutoTokenizer.from_pretrained(tmp_path)
    if saved:
        library.save_pretrained(tmp_path)
    ours = open_tokenizer(tmp_path / "tokenizer.model", infer_tokenizer(tmp_path).spec)
    # A space in front is where the library departs from SentencePiece, which is a finding.
    for text in ("The 12th of birds sings.", "größer 東京\n\tx", "a  b   c "):
        assert list(ours.ids(text)) == library(text)["input_ids"]
