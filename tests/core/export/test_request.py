import dataclasses

import pytest

from conform.core.errors import PlanError
from conform.core.export.export import export_checkpoint
from conform.core.export.request import ExportRequest, open_source, plan_request, unfit_quants

REASON = "rows of 288 values are not a multiple of 256"


@pytest.fixture
def narrow(micro, make_checkpoint, tmp_path):
    """A checkpoint with rows of 288 values, which are no whole super-blocks of 256, and rows of 512."""
    return make_checkpoint(
        tmp_path / "narrow", dataclasses.replace(micro, model=dataclasses.replace(micro.model, hidden=288))
    )


@pytest.fixture
def plans(registry):
    def run(folder, *quants, **options):
        request = ExportRequest(quants, **options)
        source = open_source(folder, request)
        return unfit_quants(request, source, registry), plan_request(request, source, registry)

    return run


def types(plan):
    return {tensor.spec.role: tensor.codec.name for tensor in plan.tensors if tensor.spec.layer == 1}


def test_a_quantizer_of_a_pattern_is_left_out_where_it_does_not_fit(plans, narrow):
    unfit, made = plans(narrow, "iq3_s", "q8_0", optional=("iq3_s", "q8_0"))
    assert [plan.target.name for plan in made] == ["micro-q8_0.gguf"]
    assert list(unfit) == ["iq3_s"]
    assert REASON in unfit["iq3_s"]


def test_one_that_was_named_is_refused(plans, narrow):
    with pytest.raises(PlanError, match=REASON):
        plans(narrow, "iq3_s", "q8_0", optional=("q8_0",))


def test_a_pattern_that_leaves_nothing_is_refused(plans, narrow):
    with pytest.raises(PlanError, match=f"{REASON}, which iq3_s needs"):
        plans(narrow, "iq3_s", "iq3_xxs", optional=("iq3_s", "iq3_xxs"))


def test_with_a_fallback_nothing_is_left_out(plans, narrow):
    unfit, (plan,) = plans(narrow, "iq3_s", optional=("iq3_s",), fallbacks=("q8_0",))
    assert unfit == {}
    assert (types(plan)["ffn_up"], types(plan)["ffn_down"]) == ("q8_0", "iq3_s")
    assert REASON in plan.notes[0]


@pytest.mark.parametrize("optional", [(), ("i2_s", "q8_0", "f16")])
def test_a_mix_skips_what_does_not_fit_and_says_so(plans, narrow, optional):
    unfit, (plan,) = plans(narrow, "i2_s", "q8_0", "f16", target_bpw=9.0, optional=optional)
    assert unfit == {}
    assert plan.bits_per_weight <= 9.0
    assert types(plan)["ffn_up"] in ("q8_0", "f16")
    assert len({tensor.codec.name for tensor in plan.tensors if tensor.spec.storage_class == "linear"}) > 1
    assert len(plan.notes) == 1
    assert "not stored as i2_s, because rows of 288" in plan.notes[0]


def test_a_mix_of_one_quantizer_is_that_quantizer(plans, checkpoint):
    _, (plan,) = plans(checkpoint, "q8_0", target_bpw=12.0)
    assert types(plan)["ffn_up"] == "q8_0"


def test_what_a_mix_cannot_store_at_all_is_refused(plans, narrow):
    with pytest.raises(PlanError, match=r"which i2_s needs and rows of 288 .* which iq3_s needs; .* --fallback iq4_nl"):
        plans(narrow, "i2_s", "iq3_s", target_bpw=6.0)


def test_an_export_with_a_fallback_conforms(narrow, registry, tmp_path):
    request = ExportRequest(("tq2_0",), str(tmp_path / "x.gguf"), fallbacks=("q8_0",))
    (report,) = export_checkpoint(narrow, request, registry)
    assert {tensor.plan.codec.name for tensor in report.tensors} == {"f16", "f32", "q8_0", "tq2_0"}
