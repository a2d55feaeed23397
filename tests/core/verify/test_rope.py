"""Scaled positions in a file against those of its contract: keys and the tensor of Llama 3."""

import dataclasses

import numpy as np
import pytest

from conform.contract.rope import FACTOR_TOLERANCE, frequency_factors, yarn_magnitude
from conform.contract.spec import RopeScaling
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.export.plan import plan_export
from conform.core.export.run import run_export
from conform.core.metadata import f32, string, u32
from conform.core.tokenizer.tokenizer import read_vocabulary
from conform.core.verify import verify_file
from conform.core.verify.verify import open_gguf

USUAL = {"beta_fast": 32.0, "beta_slow": 1.0}
SCALINGS = {
    "none": None,
    "linear": RopeScaling("linear", 2.5),
    "llama3": RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0),
    "yarn": RopeScaling("yarn", 4.0, 64, **USUAL, attention_factor=yarn_magnitude(4.0)),
    "yarn of another magnitude": RopeScaling("yarn", 4.0, 64, **USUAL, attention_factor=1.5),
}


def scaled(contract, name):
    return dataclasses.replace(contract, model=dataclasses.replace(contract.model, rope_scaling=SCALINGS[name]))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, registry, micro, make_checkpoint):
    """Name of a scaling → the path of an export with it."""
    made = {}

    def export(name):
        if name not in made:
            contract = scaled(micro, name)
            folder = make_checkpoint(tmp_path_factory.mktemp("rope") / "checkpoint", contract)
            opened = open_checkpoint(folder)
            vocabulary = read_vocabulary(opened.tokenizer_path)
            made[name] = run_export(plan_export(opened, contract, vocabulary, registry, "f16", folder / "x.gguf")).path
        return made[name]

    return export


@pytest.fixture
def errors(tmp_path, registry, rewrite):
    """Where the errors are once keys, tensors or values are changed; the contract is another if named."""

    def run(path, keys=None, tensors=None, values=None, contract=None):
        content = bytearray(rewrite(path.read_bytes(), keys, tensors))
        changed = tmp_path / "changed.gguf"
        changed.write_bytes(content)
        if values is not None:
            start = open_gguf(changed, registry).tensors["rope_freqs.weight"].offset
            content[start : start + 4 * len(values)] = np.asarray(values, "<f4").tobytes()
            changed.write_bytes(rewrite(bytes(content)))
        findings = verify_file(changed, registry, contract).findings
        return [finding.where for finding in findings if finding.severity == "error"]

    return run


@pytest.mark.parametrize("name", SCALINGS)
def test_an_export_has_no_findings(exported, registry, name):
    assert verify_file(exported(name), registry).findings == ()


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("linear", "type", string("yarn")),
        ("linear", "type", None),
        ("linear", "factor", f32(2.0)),
        ("linear", "factor", None),
        ("linear", "attn_factor", f32(1.0)),
        ("llama3", "type", string("linear")),
        ("llama3", "factor", f32(8.0)),
        ("none", "type", string("linear")),
        ("yarn", "type", string("linear")),
        ("yarn", "factor", f32(5.0)),
        ("yarn", "original_context_length", u32(65)),
        ("yarn", "original_context_length", None),
        ("yarn", "attn_factor", f32(1.1)),
        ("yarn", "yarn_beta_fast", f32(16.0)),
        ("yarn", "yarn_beta_slow", f32(2.0)),
        ("yarn", "yarn_attn_factor", f32(1.0)),
        ("yarn", "yarn_log_multiplier", f32(0.1)),
        ("yarn of another magnitude", "attn_factor", f32(1.0)),
        ("yarn of another magnitude", "attn_factor", None),
    ],
)
def test_a_key_that_changes_the_scaling_is_an_error(exported, errors, name, key, value):
    key = f"llama.rope.scaling.{key}"
    assert errors(exported(name), {key: value}) == [key]


@pytest.mark.parametrize("key", ["attn_factor", "yarn_beta_fast", "yarn_beta_slow"])
def test_what_runtimes_do_anyway_may_be_left_out(exported, errors, key):
    assert errors(exported("yarn"), {f"llama.rope.scaling.{key}": None}) == []


def test_a_file_with_scaling_is_no_file_of_a_contract_without(exported, errors, micro):
    found = errors(exported("llama3"), contract=micro)
    assert found == ["conform.contract.digest", "rope_freqs.weight"]
    found = errors(exported("linear"), contract=micro)
    assert {"llama.rope.scaling.type", "llama.rope.scaling.factor"} <= set(found)


def test_a_file_without_scaling_is_no_file_of_a_contract_with(exported, errors, micro):
    assert "rope_freqs.weight" in errors(exported("none"), contract=scaled(micro, "llama3"))
    assert "llama.rope.scaling.factor" in errors(exported("none"), contract=scaled(micro, "linear"))


def stored(path, registry):
    return open_gguf(path, registry).packed("rope_freqs.weight").view("<f4")


def test_factors_are_computed_anew(exported, errors, registry):
    factors = stored(exported("llama3"), registry)
    assert errors(exported("llama3"), values=[*factors[:5], factors[5] * 1.001]) == ["rope_freqs.weight[5]"]
    assert errors(exported("llama3"), values=np.ones(16)) == [f"rope_freqs.weight[{np.argmax(factors > 1)}]"]


def test_factors_have_a_type_and_a_shape(exported, errors):
    for change in ({"ggml_type": 30}, {"shape": (15,)}):
        assert "rope_freqs.weight" in errors(exported("llama3"), tensors={"rope_freqs.weight": change})


def of_llama_cpp(base, dim, scaling):
    """The factors in float32, by the steps of llama.cpp's converter."""
    frequencies = np.float32(1) / np.float32(base) ** (np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim))
    low, high, context = scaling.low_freq_factor, scaling.high_freq_factor, scaling.original_context
    factors = []
    for frequency in frequencies:
        length = np.float32(2 * np.pi) / frequency
        smooth = np.float32((context / length - np.float32(low)) / np.float32(high - low))
        between = np.float32(1) / ((np.float32(1) - smooth) / np.float32(scaling.factor) + smooth)
        factors.append(1 if length < context / high else scaling.factor if length > context / low else between)
    return np.array(factors, np.float32)


def test_factors_in_the_rounding_of_another_converter_are_the_same(exported, errors):
    assert errors(exported("llama3"), values=of_llama_cpp(10000.0, 32, SCALINGS["llama3"])) == []


@pytest.mark.parametrize("factor", [8.0, 32.0, 3.7])
def test_the_tolerance_has_room_for_real_models(factor):
    scaling = RopeScaling("llama3", factor, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
    ours = np.array(frequency_factors(500000.0, 128, scaling))
    assert np.abs(of_llama_cpp(500000.0, 128, scaling) / ours - 1).max() < FACTOR_TOLERANCE / 4
