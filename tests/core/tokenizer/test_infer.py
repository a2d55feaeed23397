import dataclasses
import json

import pytest

from conform.contract.infer import SENTENCEPIECE_BPE
from conform.core.checkpoint.checkpoint import contract_of, open_checkpoint
from conform.core.errors import CheckpointError, InputError
from conform.core.export.request import ExportRequest, open_source, plan_request
from conform.core.export.run import run_export
from conform.core.gguf.read import read_gguf
from conform.core.tokenizer.infer import InferredTokenizer, infer_tokenizer
from conform.core.verify.source import verify_against
from conform.trainer.checkpoints.huggingface import huggingface_config

IM_END = {"401": {"content": "<|im_end|>", "special": True}}


@pytest.fixture
def inferred(tmp_path, tokenizer_bytes):
    """What is inferred of the model that the recipe makes, with settings beside it."""

    def infer(rows=400, **files):
        (tmp_path / "tokenizer.model").write_bytes(tokenizer_bytes)
        for stem, content in files.items():
            (tmp_path / f"{stem}.json").write_text(json.dumps(content))
        return infer_tokenizer(tmp_path, rows)

    return infer


def test_without_a_tokenizer_nothing_is_inferred(tmp_path):
    assert infer_tokenizer(tmp_path) == InferredTokenizer()


def test_our_own_model_is_inferred_as_our_recipe(inferred):
    found = inferred()
    assert found.spec == SENTENCEPIECE_BPE
    assert found.origins["byte_fallback"] == "tokenizer.model"
    assert found.origins["add_bos"].startswith("no file says it")


def test_every_field_has_an_origin(inferred):
    fields = {field.name for field in dataclasses.fields(SENTENCEPIECE_BPE)}
    assert inferred().origins.keys() == fields


@pytest.mark.parametrize(
    ("config", "field", "value", "origin"),
    [
        ({"add_bos_token": False}, "add_bos", False, "add_bos_token in tokenizer_config.json"),
        ({"add_eos_token": True}, "add_eos", True, "add_eos_token in tokenizer_config.json"),
        ({"add_prefix_space": False}, "add_dummy_prefix", False, "tokenizer_config.json"),
        ({"pad_token": "</s>"}, "pad_id", 2, "pad_token = '</s>' in tokenizer_config.json"),
        ({"pad_token": "[PAD]"}, "pad_id", -1, "pad_token = '[PAD]' in tokenizer_config.json"),
    ],
)
def test_the_settings_decide(inferred, config, field, value, origin):
    found = inferred(tokenizer_config=config)
    assert getattr(found.spec, field) == value
    assert found.origins[field] == origin


def test_a_special_token_may_stand_behind_the_pieces(inferred):
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": IM_END}
    assert inferred(416, tokenizer_config=config).spec.eos_id == 401


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"eos_token": "<|im_end|>", "added_tokens_decoder": IM_END}, "has no piece with an embedding row"),
        ({"bos_token": "<|begin|>"}, "tokenizer_config.json: bos_token = '<|begin|>' has no piece"),
    ],
)
def test_a_special_token_without_a_row_is_refused(inferred, config, message):
    with pytest.raises(CheckpointError) as error:
        inferred(tokenizer_config=config)
    assert message in str(error.value)


def test_files_that_contradict_each_other_are_refused(inferred):
    single = [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]
    with pytest.raises(InputError, match=r"says add_bos = True, but tokenizer_config\.json beside it says False"):
        inferred(
            tokenizer_config={"add_bos_token": False},
            tokenizer={"post_processor": {"type": "TemplateProcessing", "single": single}},
        )


@pytest.fixture
def stranger(tmp_path, micro, make_checkpoint):
    """The folder of a checkpoint that conform did not write: config.json and settings in place of a sidecar."""

    def made(contract=micro, **files):
        folder = make_checkpoint(tmp_path / "stranger", contract, sidecar=False)
        files = {"config": huggingface_config(contract), **files}
        for stem, content in files.items():
            (folder / f"{stem}.json").write_text(json.dumps(content))
        return folder

    return made


def exported(folder, registry, tmp_path):
    request = ExportRequest(("f16",), output=str(tmp_path / "out.gguf"))
    source = open_source(folder, request)
    (plan,) = plan_request(request, source, registry)
    run_export(plan)
    return source, read_gguf(tmp_path / "out.gguf")


def test_a_checkpoint_that_adds_no_bos_is_exported_so(stranger, registry, tmp_path):
    folder = stranger(tokenizer_config={"add_bos_token": False})
    source, file = exported(folder, registry, tmp_path)
    assert source.findings == ()
    assert source.contract.tokenizer.add_bos is False
    assert file.metadata["tokenizer.ggml.add_bos_token"] is False
    assert verify_against(tmp_path / "out.gguf", registry, folder).findings == ()


def test_a_checkpoint_that_does_not_say_whether_it_adds_bos_is_warned_about(stranger, micro):
    folder = stranger()
    (finding,) = open_source(folder, ExportRequest(("f16",))).findings
    assert (finding.severity, finding.where, finding.found) == ("warning", "tokenizer.add_bos", "true assumed")


def test_added_tokens_and_the_chat_template_reach_the_file(stranger, micro, registry, tmp_path):
    wider = dataclasses.replace(micro, model=dataclasses.replace(micro.model, vocab=416))
    config = {"eos_token": "<|im_end|>", "added_tokens_decoder": IM_END, "chat_template": "{{ messages }}"}
    folder = stranger(wider, tokenizer_config={"add_bos_token": True, **config})
    source, file = exported(folder, registry, tmp_path)
    assert [finding.severity for finding in source.findings] == ["warning"]
    assert file.metadata["tokenizer.ggml.tokens"][400:403] == ["[PAD400]", "<|im_end|>", "[PAD402]"]
    assert file.metadata["tokenizer.ggml.token_type"][400:403] == [5, 3, 5]
    assert file.metadata["tokenizer.ggml.eos_token_id"] == 401
    assert file.metadata["tokenizer.chat_template"] == "{{ messages }}"
    verification = verify_against(tmp_path / "out.gguf", registry, folder)
    assert verification.conforms


def test_a_chat_template_that_was_changed_since_is_found(stranger, registry, tmp_path):
    folder = stranger(tokenizer_config={"chat_template": "{{ messages }}"})
    exported(folder, registry, tmp_path)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ other }}"}))
    found = [finding.where for finding in verify_against(tmp_path / "out.gguf", registry, folder).findings]
    assert found == ["conform.tokenizer.digest", "tokenizer.chat_template"]


def test_the_contract_of_a_stranger_is_that_of_its_tokenizer(stranger):
    folder = stranger(tokenizer_config={"add_bos_token": False, "pad_token": "</s>"})
    tokenizer = contract_of(open_checkpoint(folder), None).tokenizer
    assert (tokenizer.add_bos, tokenizer.pad_id) == (False, 2)


@pytest.fixture
def byte_level(tmp_path, make_tokenizer_json):
    """What is inferred of a byte-level BPE, with or without BOS in its template, and settings beside it."""

    def infer(*, bos, **config):
        items = [{"SpecialToken": {"id": "<|begin|>"}}, {"Sequence": {"id": "A"}}]
        special = {"<|begin|>": {"id": "<|begin|>", "ids": [0], "tokens": ["<|begin|>"]}}
        template = {"type": "TemplateProcessing", "single": items[not bos :], "special_tokens": special}
        data = make_tokenizer_json(512, "llama-bpe") | {"post_processor": template}
        (tmp_path / "tokenizer.json").write_text(json.dumps(data))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return infer_tokenizer(tmp_path, 512)

    return infer


def test_a_byte_level_bpe_takes_its_special_tokens_from_the_settings(byte_level):
    found = byte_level(bos=True, bos_token="<|begin|>", eos_token="<|end|>")
    spec = found.spec
    assert (spec.model, spec.pre, spec.bos_id, spec.eos_id) == ("byte-level", "llama-bpe", 0, 1)
    assert (spec.add_bos, spec.add_eos, spec.add_dummy_prefix) == (True, False, False)
    assert found.origins["pre"] == "tokenizer.json"
    assert found.origins["eos_id"] == "eos_token = '<|end|>' in tokenizer_config.json"


def test_a_template_without_bos_means_that_none_is_added(byte_level):
    spec = byte_level(bos=False, bos_token="<|begin|>").spec
    assert (spec.bos_id, spec.add_bos) == (0, False)


@pytest.mark.parametrize(
    ("bos", "config"),
    [(True, {"add_bos_token": False}), (False, {"add_bos_token": True}), (True, {"bos_token": "<|end|>"})],
)
def test_a_template_that_the_settings_contradict_is_refused(byte_level, bos, config):
    with pytest.raises(CheckpointError, match=r"its post_processor says (add_)?bos = .* correct the one that is wrong"):
        byte_level(bos=bos, **config)
