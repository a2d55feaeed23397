import dataclasses
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conform.trainer.config import (
    MAY_CHANGE_ON_RESUME,
    TrainConfig,
    config_to_toml,
    read_config,
    resolved,
    shipped_configs,
    with_values,
)
from conform.trainer.errors import InputError, TrainError


def resolve(config, *, ternary=False, context=512, world=1):
    return resolved(config, ternary=ternary, context=context, world=world, device="cpu", bfloat16=True)


def test_a_written_config_reads_back_equal(tmp_path):
    config = TrainConfig(steps=7, lr=3e-4, judge='a"b\\c', recompute=False, dtype="f32")
    (tmp_path / "c.toml").write_text(config_to_toml(config))
    assert read_config(str(tmp_path / "c.toml")) == config


@given(judge=st.text(st.characters(exclude_categories=["Cs"])), lr=st.floats(1e-300, 1e300))
def test_any_text_and_number_read_back(tmp_path_factory, judge, lr):
    config = TrainConfig(judge=judge, lr=lr)
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(config_to_toml(config).encode())
    assert read_config(str(path)) == config


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_reads(name):
    assert read_config(name).batch > 0


def test_a_length_that_is_given_replaces_the_config_s():
    shipped = read_config("medium")
    assert shipped.tokens
    config = with_values(shipped, {"steps": 4}, "command line")
    assert (config.steps, config.tokens) == (4, 0)
    config = with_values(config, {"tokens": 10_000}, "command line")
    assert (config.steps, config.tokens) == (0, 10_000)
    assert with_values(shipped, {"lr": 1.0}, "command line").tokens == shipped.tokens


def test_steps_follow_from_tokens():
    config = resolve(TrainConfig(tokens=10_000, batch=4, sequence=256))
    assert config.steps == 10
    assert config.tokens == 10_240


def test_a_resolved_config_leaves_nothing_to_derive():
    config = resolve(TrainConfig(steps=100), ternary=True)
    assert (config.dtype, config.device, config.decay_until) == ("bf16", "cpu", 0.5)
    assert (config.eval_every, config.save_every) == (10, 25)
    assert resolve(config, ternary=True) == config


def test_every_setting_has_help_and_a_default():
    for item in dataclasses.fields(TrainConfig):
        assert item.metadata["help"].endswith(".")
        assert item.default is not dataclasses.MISSING


def test_what_changes_the_numbers_may_not_change_on_resume():
    assert not MAY_CHANGE_ON_RESUME & {"lr", "seed", "batch", "sequence", "dtype", "weight_decay", "clip", "warmup"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepz = 3", "unknown key stepz"),
        ("steps = 'many'", "expected a value of type int"),
        ("steps = true", "expected a value of type int"),
        ("dtype = 'f8'", "expected one of auto, bf16, f32"),
        ("lr = -1.0", "lr = -1.0: expected more than 0"),
        ("lr = nan", "lr = nan: expected a finite number"),
        ("decay_until = -inf", "decay_until = -inf: expected a finite number"),
        ("beta2 = 1.5", "expected 0 to 1"),
        ("[section]\nsteps = 1", "unknown key section"),
        ("steps = ", "not a TOML file"),
    ],
)
def test_a_bad_config_file_is_refused_by_file_and_key(tmp_path, text, sentence):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=r"bad\.toml") as refusal:
        read_config(str(path))
    assert sentence in str(refusal.value)


def test_a_large_file_is_no_config_and_not_read(tmp_path):
    with (tmp_path / "weights").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="weights: larger than 1048576 bytes; expected a training config"):
        read_config(str(tmp_path / "weights"))


def test_a_config_that_does_not_exist_names_those_that_do():
    with pytest.raises(TrainError, match="demo"):
        read_config("no-such")


@pytest.mark.parametrize(
    ("values", "world", "sentence"),
    [
        ({}, 1, "neither steps nor tokens"),
        ({"steps": 3, "tokens": 999_999}, 1, "contradict"),
        ({"steps": 3, "batch": 6}, 4, "multiple of the 4 processes"),
        ({"steps": 3, "batch": 8, "micro_batch": 3}, 2, "divisor of 4 sequences"),
        ({"steps": 3, "sequence": 513}, 1, "at most 512, the contract's context"),
    ],
)
def test_contradictions_are_refused(values, world, sentence):
    with pytest.raises(TrainError, match=sentence):
        resolve(with_values(TrainConfig(), values, "here"), world=world)


def test_the_toml_form_has_every_setting():
    assert set(tomllib.loads(config_to_toml(TrainConfig()))) == {item.name for item in dataclasses.fields(TrainConfig)}
