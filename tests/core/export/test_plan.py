import dataclasses

import numpy as np
import pytest

from conform.contract.inventory import inventory
from conform.contract.rope import frequency_factors
from conform.contract.spec import RopeScaling
from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.codec import Codec
from conform.core.errors import PlanError, PluginError, QuantizeError
from conform.core.export.plan import check_export, plan_export
from conform.core.export.policy import TypeOverride
from conform.core.export.tuning import Tuning
from conform.core.quantizer import Layout
from conform.core.tokenizer.tokenizer import read_vocabulary


class OddSize:
    """Promises a size of its own."""

    name = "odd"
    needs_importance = False

    def __init__(self, size=100, ggml_type=9001, needs_importance=False):
        self.size = size
        self.layout = Layout(ggml_type, 1)
        self.needs_importance = needs_importance

    def nbytes(self, shape):
        if isinstance(self.size, Exception):
            raise self.size
        return self.size

    def quantize(self, values, importance=None):
        raise AssertionError("planning must not quantize")

    dequantize = quantize


class WithOne:
    """A catalogue with one more quantizer."""

    def __init__(self, registry, extra):
        self._registry, self._extra = registry, extra
        self.metadata_writers = registry.metadata_writers

    def codec(self, name):
        return Codec(self._extra, "acme 1.0") if name == self._extra.name else self._registry.codec(name)

    def decoder(self, ggml_type, variant=""):
        return self._registry.decoder(ggml_type, variant)


@pytest.fixture
def plan(registry, tmp_path):
    def run(folder, contract, quant="q8_0", catalog=registry, **options):
        opened = open_checkpoint(folder)
        vocabulary = read_vocabulary(opened.tokenizer_path)
        return plan_export(opened, contract, vocabulary, catalog, quant, tmp_path / "x.gguf", **options)

    return run


def test_offsets_are_aligned_and_leave_no_gap(plan, checkpoint, micro):
    made = plan(checkpoint, micro)
    position = 0
    for tensor in made.tensors:
        assert tensor.offset == position
        assert tensor.offset % 32 == 0
        position = -(-(position + tensor.nbytes) // 32) * 32
    assert made.data_bytes == position


def test_a_plan_reads_no_weight(plan, checkpoint, micro):
    with (checkpoint / "model.safetensors").open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate(size - 1000)
        file.truncate(size)  # the same size, other values
    assert plan(checkpoint, micro).weights == micro.model.parameters


@pytest.mark.parametrize("quant", ["q8_0", "f16"])
def test_factors_of_frequencies_are_planned_as_f32_whatever_is_asked_for(plan, checkpoint, micro, quant):
    scaling = RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0)
    scaled = dataclasses.replace(micro, model=dataclasses.replace(micro.model, rope_scaling=scaling))
    made = plan(checkpoint, scaled, quant, overrides=[TypeOverride("*", "f16")])
    first = made.tensors[0]
    assert (first.spec.gguf_name, first.codec.name, first.nbytes, first.offset) == ("rope_freqs.weight", "f32", 64, 0)
    assert first.derived.tolist() == pytest.approx(frequency_factors(10000.0, 32, scaling), rel=1e-7)
    assert made.weights == scaled.model.parameters
    with pytest.raises(PlanError, match="matches no tensor"):
        plan(checkpoint, scaled, quant, overrides=[TypeOverride("rope_freqs", "f16")])


def test_transforms_follow_architecture_and_kind(plan, checkpoint, micro, tmp_path, tokenizer_bytes):
    def transforms(contract):
        return {tensor.spec.role: str(tensor.transform) for tensor in plan(checkpoint, contract).tensors}

    model = micro.model
    assert transforms(micro)["attn_q"] == "permute"
    assert transforms(micro)["attn_v"] == "none"
    ternary = dataclasses.replace(micro, model=dataclasses.replace(model, linear="ternary"))
    assert transforms(ternary)["attn_k"] == "ternarise, permute"
    assert transforms(ternary)["ffn_up"] == "ternarise"
    assert transforms(ternary)["token_embd"] == "none"
    bitnet = dataclasses.replace(micro, model=dataclasses.replace(model, architecture="bitnet-b1.58", linear="ternary"))
    assert transforms(bitnet)["attn_q"] == "ternarise"


def test_the_header_does_not_change_its_size_with_the_digest(plan, checkpoint, micro):
    made = plan(checkpoint, micro)
    assert len(made.header()) == len(made.header("f" * 64))
    assert made.header() != made.header("f" * 64)


def test_a_row_that_is_no_whole_block_is_named_with_a_way_out(plan, checkpoint, micro):
    narrow = dataclasses.replace(micro, model=dataclasses.replace(micro.model, ffn=500))
    with pytest.raises(PlanError, match=r"blk\.\*\.ffn_down: rows of 500 values .* --type 'blk\.\*\.ffn_down=f16'"):
        plan(checkpoint, narrow)


def test_a_norm_can_only_be_what_takes_vectors(plan, checkpoint, micro):
    overrides = [TypeOverride("*_norm", "f16")]
    assert plan(checkpoint, micro, overrides=overrides).tensors[-1].codec.name == "f16"


def test_an_unknown_quantizer_lists_what_exists(plan, checkpoint, micro):
    with pytest.raises(PluginError, match=r"q9_9: no such quantizer.* there are f32"):
        plan(checkpoint, micro, overrides=[TypeOverride("token_embd", "q9_9")])


@pytest.mark.parametrize(
    ("extra", "error", "message"),
    [
        (OddSize(ValueError("no idea")), PluginError, "odd of acme 1.0 failed to size shape .* ValueError: no idea"),
        (OddSize(QuantizeError("rows are too short")), PlanError, "rows are too short"),
        (OddSize(0), PluginError, "promises 0 bytes"),
        (OddSize(1.5), PluginError, "promises 1.5 bytes"),
        (OddSize(100, ggml_type=8), PluginError, "promises 100 bytes .* its tensor type takes 69632"),
        (OddSize(100, needs_importance=True), PlanError, "needs an importance matrix"),
    ],
)
def test_a_third_partys_promise_is_checked(plan, registry, checkpoint, micro, extra, error, message):
    with pytest.raises(error, match=message):
        plan(checkpoint, micro, "odd", WithOne(registry, extra))


def test_a_third_partys_type_is_planned_by_its_own_size(plan, registry, checkpoint, micro):
    made = plan(checkpoint, micro, "odd", WithOne(registry, OddSize(100)))
    assert made.tensors[2].nbytes == 100
    assert made.tensors[2].codec.owner == "acme 1.0"
    assert "general.file_type" not in made.metadata("0" * 64)


def test_importance_of_another_width_is_refused(plan, checkpoint, micro):
    with pytest.raises(PlanError, match="the importance matrix has 255 columns, the tensor 256"):
        plan(checkpoint, micro, importance={"blk.0.attn_q.weight": np.ones(255, np.float32)})


def test_a_ternary_scale_that_nothing_uses_is_refused(plan, checkpoint, micro):
    with pytest.raises(PlanError, match="none of f16, f32, q8_0 ternarises"):
        plan(checkpoint, micro, tuning=Tuning(ternary_scale="optimal"))
    assert plan(checkpoint, micro, "i2_s", tuning=Tuning(ternary_scale="optimal")).tensors


def test_check_export_reports_everything_at_once(checkpoint, micro, tmp_path, tokenizer_bytes):
    opened = open_checkpoint(checkpoint)
    vocabulary = dataclasses.replace(read_vocabulary(opened.tokenizer_path), bos_id=7, digest="0" * 64)
    deeper = dataclasses.replace(micro, model=dataclasses.replace(micro.model, layers=3))
    findings = check_export(opened, deeper, vocabulary)
    assert [f.where for f in findings if f.where.startswith("model.layers.2.")] == [
        spec.name for spec in inventory(deeper.model) if spec.layer == 2
    ]
    assert "tokenizer.bos_id" in [f.where for f in findings]
    assert "trained with another tokenizer" in [f.hint for f in findings][-1]
