import numpy as np
import pytest

from conform.core.checkpoint.checkpoint import open_checkpoint
from conform.core.errors import PlanError
from conform.core.export.measure import measure_options, mix_under
from conform.core.export.plan import plan_export
from conform.core.export.policy import TypeOverride
from conform.core.export.run import run_export
from conform.core.tokenizer.tokenizer import read_vocabulary

QUANTS = ("i2_s", "q8_0", "f16")


@pytest.fixture
def plan(registry, tmp_path, checkpoint, micro):
    def run(quant, **options):
        opened = open_checkpoint(checkpoint)
        vocabulary = read_vocabulary(opened.tokenizer_path)
        return plan_export(opened, micro, vocabulary, registry, quant, tmp_path / "mix.gguf", **options)

    return run


def test_the_mix_is_exported_under_the_target_and_its_error_is_as_measured(plan):
    plans = [plan(quant) for quant in QUANTS]
    mix = mix_under(plans, 7.0)
    report = run_export(plan(mix))
    assert report.bits_per_weight <= 7.0
    assert report.bits_per_weight > 6.5
    assert len(set(mix.values())) > 1
    options = measure_options(plans, tuple(mix))
    for tensor in report.tensors:
        name = tensor.plan.spec.gguf_name
        if name in mix:
            (expected,) = [option.error for option in options[name] if option.quantizer == mix[name]]
            assert tensor.cost.errors == expected


def test_more_room_never_gives_more_error(plan):
    plans = [plan(quant) for quant in QUANTS]
    errors = []
    for target in (4, 6, 8, 10, 17):
        report = run_export(plan(mix_under(plans, target)))
        errors.append(sum(tensor.cost.errors for tensor in report.tensors))
    assert errors == sorted(errors, reverse=True)


def test_importance_moves_the_mix(plan):
    importance = {"blk.1.attn_k.weight": np.full(256, 1e6, np.float32)}
    plans = [plan(quant, importance=importance) for quant in QUANTS]
    assert mix_under(plans, 6.0)["blk.1.attn_k.weight"] == "f16"
    assert mix_under([plan(quant) for quant in QUANTS], 6.0)["blk.1.attn_k.weight"] != "f16"


def test_an_override_takes_a_tensor_out_of_the_mix(plan):
    overrides = [TypeOverride("blk.*.attn_v", "bf16")]
    mix = mix_under([plan(quant, overrides=overrides) for quant in QUANTS], 8.0)
    assert "blk.0.attn_v.weight" not in mix
    assert len(mix) == 12


def test_a_target_below_the_smallest_mix_is_refused_with_the_figure(plan):
    with pytest.raises(PlanError, match=r"the smallest mix takes 3\.2117 bits per weight, 1\.3790 of them"):
        mix_under([plan(quant) for quant in QUANTS], 3.0)


def test_progress_names_each_tensor(plan):
    done = []
    mix = mix_under([plan(quant) for quant in QUANTS], 8.0, done.append)
    assert done == list(mix)
