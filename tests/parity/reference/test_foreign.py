"""Another implementation in a process of its own: what it is given, and what becomes of one that does not answer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.parity.errors import ForeignError
from conform.parity.reference import foreign
from conform.parity.reference.foreign import foreign_logits
from conform.parity.reference.foreign_program import compute

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

IDS = [[1, 2, 3], [4, 5]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(1)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1}
    config = transformers.LlamaConfig(**sizes, num_attention_heads=2, max_position_embeddings=64)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def copied(checkpoint, tmp_path):
    """copied(drop, **keys): the checkpoint without those tensors, and with these keys in config.json."""

    def copy(drop=(), **keys) -> Path:
        tensors = load_file(checkpoint / "model.safetensors")
        kept = {name: values for name, values in tensors.items() if name not in drop}
        save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
        config = json.loads((checkpoint / "config.json").read_text()) | keys
        (tmp_path / "config.json").write_text(json.dumps(config))
        return tmp_path

    return copy


@pytest.mark.slow
def test_shards_beside_code_and_pickles_are_computed_as_one_file_is(checkpoint, tmp_path, capfd):
    tensors = load_file(checkpoint / "model.safetensors")
    names = sorted(tensors)
    for part, chosen in (("a", names[:5]), ("b", names[5:])):
        save_file({name: tensors[name] for name in chosen}, tmp_path / f"{part}.safetensors", metadata={"format": "pt"})
    places = {name: "a.safetensors" if name in names[:5] else "b.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    (tmp_path / "modeling_llama.py").write_text("raise SystemExit('code of the checkpoint was run')")
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    found = foreign_logits(open_checkpoint(tmp_path), 10_000, IDS)
    name, rows = compute(checkpoint, IDS)
    capfd.readouterr()
    assert [len(part) for part in found.logits] == [3, 2]
    np.testing.assert_allclose(np.concatenate(found.logits), rows, rtol=1e-5, atol=1e-6)
    assert found.library == f"transformers {transformers.__version__}, {name}"
    assert name == "LlamaForCausalLM"


@pytest.mark.slow
def test_what_it_raises_is_one_sentence_and_nothing_is_printed(copied, capfd):
    folder = copied(model_type="no-such-family")
    with pytest.raises(ForeignError, match=r"transformers cannot run this checkpoint: \w+: .*no-such-family") as caught:
        foreign_logits(open_checkpoint(folder), 10_000, IDS)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_program_that_does_not_answer_is_one_sentence(checkpoint, monkeypatch):
    monkeypatch.setattr(foreign, "_PROGRAM", "conform.no_such_module")
    with pytest.raises(ForeignError, match=r"did not answer: exit status 1; .*No module named conform.no_such_module"):
        foreign_logits(open_checkpoint(checkpoint), 10_000, IDS)


def test_without_a_configuration_nothing_says_what_the_model_is(copied):
    folder = copied()
    (folder / "config.json").unlink()
    with pytest.raises(ForeignError, match=r"no config\.json"):
        foreign_logits(open_checkpoint(folder), 10_000, IDS)


def test_what_does_not_fit_into_the_memory_is_not_tried(checkpoint):
    with pytest.raises(ForeignError, match=r"GiB for 1000000000000000 parameters in float32, but this machine has"):
        foreign_logits(open_checkpoint(checkpoint), 10**15, IDS)


def test_a_tensor_that_is_missing_is_not_made_up(copied):
    with pytest.raises(ValueError, match=r"missing tensors: lm_head\.weight"):
        compute(copied(drop=["lm_head.weight"]), IDS)


def test_a_tensor_that_is_not_used_is_not_left_out(copied):
    with pytest.raises(
        ValueError, match=r"unexpected tensors: model\.norm\.weight|unexpected tensors: model\.layers\.0"
    ):
        compute(copied(num_hidden_layers=0), IDS)


def test_a_tensor_of_another_shape_is_not_made_up(copied):
    with pytest.raises(ValueError, match=r"mismatched tensors: lm_head\.weight and 1 more"):
        compute(copied(vocab_size=65), IDS)


def test_a_class_that_the_model_type_does_not_mean_is_an_error(copied):
    with pytest.raises(ValueError, match=r"names GPT2LMHeadModel, but its model_type means LlamaForCausalLM"):
        compute(copied(architectures=["GPT2LMHeadModel"]), IDS)


def test_a_key_that_it_would_ignore_is_an_error(copied):
    with pytest.raises(ValueError, match="LlamaForCausalLM rotates whole heads and ignores partial_rotary_factor"):
        compute(copied(partial_rotary_factor=0.5), IDS)


def test_code_of_the_checkpoint_is_never_run(copied):
    folder = copied(auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('run')")
    assert compute(folder, IDS)[0] == "LlamaForCausalLM"
