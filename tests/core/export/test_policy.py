import pytest

from conform.contract.inventory import inventory
from conform.core.errors import PlanError
from conform.core.export.policy import TypeOverride, parse_override, storage_choices


def stored(contract, *overrides, quant="i2_s"):
    parsed = [parse_override(text) for text in overrides]
    choices = storage_choices(inventory(contract.model), contract.storage, quant, parsed)
    return {name: order[0] for name, order in choices.items()}


def test_classes_are_stored_as_the_contract_says(micro):
    names = stored(micro)
    assert names["token_embd.weight"] == "f16"
    assert names["blk.0.attn_norm.weight"] == names["output_norm.weight"] == "f32"
    assert names["blk.1.ffn_down.weight"] == "i2_s"
    assert len(names) == 20


def test_overrides_match_with_and_without_the_suffix(micro):
    for pattern in ("blk.*.attn_v", "blk.*.attn_v.weight", "*attn_v*"):
        names = stored(micro, f"{pattern}=q8_0")
        assert [name for name, quant in names.items() if quant == "q8_0"] == [
            "blk.0.attn_v.weight",
            "blk.1.attn_v.weight",
        ]


def test_the_last_override_counts(micro):
    names = stored(micro, "blk.*=q8_0", "blk.1.*=f16", "blk.1.ffn_*=bf16")
    assert names["blk.0.ffn_up.weight"] == "q8_0"
    assert names["blk.1.attn_q.weight"] == "f16"
    assert names["blk.1.ffn_up.weight"] == "bf16"


def test_quant_may_differ_by_tensor(micro):
    specs = inventory(micro.model)
    linear = {spec.gguf_name: "q8_0" for spec in specs if spec.storage_class == "linear"}
    linear["blk.0.attn_q.weight"] = "i2_s"
    names = stored(micro, quant=linear)
    assert names["blk.0.attn_q.weight"] == "i2_s"
    assert names["blk.1.attn_q.weight"] == "q8_0"


@pytest.mark.parametrize("text", ["", "=", "q8_0", "output=", "=q8_0", " = "])
def test_what_is_no_override_is_refused(text):
    with pytest.raises(PlanError, match="expected PATTERN=QUANT"):
        parse_override(text)


def test_an_equals_sign_may_be_in_the_pattern():
    assert parse_override("a=b=q8_0") == TypeOverride("a=b", "q8_0")


@pytest.mark.parametrize("pattern", ["output", "attn_v", "blk.2.*", "BLK.*"])
def test_an_override_that_matches_nothing_is_refused(micro, pattern):
    with pytest.raises(PlanError, match=r"matches no tensor; there are blk\.\*\.attn_k"):
        stored(micro, f"{pattern}=q8_0")
