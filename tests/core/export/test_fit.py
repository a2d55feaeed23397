import dataclasses
import re

import pytest

from conform.contract.inventory import inventory
from conform.core.errors import PlanError, PluginError
from conform.core.export.fit import Fit, Misfit, describe_misfits, fit_storage
from conform.core.export.policy import parse_override, storage_choices


@pytest.fixture
def narrow(micro):
    """Rows of 288 and 512 values: the first are no whole super-blocks of 256, but whole blocks of 32."""
    return dataclasses.replace(micro, model=dataclasses.replace(micro.model, hidden=288))


@pytest.fixture
def fit(registry):
    def run(contract, quant, *types, fallbacks=()):
        specs = inventory(contract.model)
        choices = storage_choices(specs, contract.storage, quant, [parse_override(text) for text in types])
        return fit_storage(specs, choices, registry, fallbacks)

    return run


def stored(fits, *roles):
    return {fits[f"blk.1.{role}.weight"].quantizer for role in roles}


WIDE, LONG = ("attn_q", "attn_k", "attn_v", "ffn_gate", "ffn_up"), ("ffn_down", "attn_output")


def test_what_fits_is_stored_as_it_was_asked_for(fit, micro):
    fits = fit(micro, "iq3_s", fallbacks=("iq4_nl",))
    assert fits["blk.0.ffn_up.weight"] == Fit("iq3_s")
    assert describe_misfits(fits, inventory(micro.model)) == ()


def test_every_tensor_that_does_not_fit_is_in_one_message_with_types_that_work(fit, narrow):
    with pytest.raises(PlanError) as error:
        fit(narrow, "iq3_s")
    message = str(error.value)
    assert message.startswith(
        "10 tensors do not fit: blk.*.attn_q, blk.*.attn_k, blk.*.attn_v, blk.*.ffn_gate, blk.*.ffn_up"
    )
    assert "rows of 288 values are not a multiple of 256, which iq3_s needs" in message
    assert "--fallback iq4_nl" in message
    types = re.findall(r"--type '([^']*)'", message)
    assert len(types) == 5
    fits = fit(narrow, "iq3_s", *types)
    assert stored(fits, *WIDE) == {"iq4_nl"}
    assert stored(fits, *LONG) == {"iq3_s"}


def test_a_fallback_takes_what_does_not_fit_and_says_so(fit, narrow):
    fits = fit(narrow, "iq3_s", fallbacks=("iq4_nl",))
    assert stored(fits, *WIDE) == {"iq4_nl"}
    assert stored(fits, *LONG) == {"iq3_s"}
    (note,) = describe_misfits(fits, inventory(narrow.model))
    patterns, _, reason = note.partition(": not stored as iq3_s, because ")
    assert patterns == ", ".join(f"blk.*.{role}" for role in WIDE)
    assert reason == "rows of 288 values are not a multiple of 256, which iq3_s needs"


def test_of_several_fallbacks_the_first_that_fits_counts(fit, narrow):
    fits = fit(narrow, "iq3_s", fallbacks=("iq2_s", "q8_0", "f16"))
    assert stored(fits, *WIDE) == {"q8_0"}
    assert [misfit.quantizer for misfit in fits["blk.0.attn_q.weight"].skipped] == ["iq3_s", "iq2_s"]


def test_a_fallback_that_does_not_fit_either_is_refused_with_both_reasons(fit, narrow):
    with pytest.raises(PlanError, match=r"which iq3_s needs and rows of 288 .* which iq2_s needs; store them"):
        fit(narrow, "iq3_s", fallbacks=("iq2_s",))


def test_a_pattern_of_several_tensors_skips_what_does_not_fit(fit, narrow):
    fits = fit(narrow, "q8_0", "blk.*.attn_*=iq3_s")
    assert stored(fits, "attn_q") == {"q8_0"}
    assert stored(fits, "attn_output") == {"iq3_s"}
    assert fits["blk.0.attn_norm.weight"].quantizer == "f32"
    assert fits["blk.0.attn_q.weight"].skipped == (
        Misfit("iq3_s", "rows of 288 values are not a multiple of 256, which iq3_s needs"),
    )


def test_a_tensor_that_is_named_is_not_skipped(fit, narrow):
    with pytest.raises(
        PlanError, match=r"1 tensor does not fit: blk\.0\.attn_q: rows of 288 .* 'blk\.0\.attn_q=iq4_nl'"
    ):
        fit(narrow, "q8_0", "blk.0.attn_q=iq3_s")


def test_rows_of_any_length_are_offered_f16(fit, micro):
    odd = dataclasses.replace(micro, model=dataclasses.replace(micro.model, ffn=500))
    with pytest.raises(
        PlanError, match=r"blk\.\*\.ffn_down: .* with --fallback f16, or with --type 'blk\.\*\.ffn_down=f16'"
    ):
        fit(odd, "q8_0")


def test_a_fallback_that_does_not_exist_is_refused_even_where_none_is_needed(fit, micro):
    with pytest.raises(PluginError, match="q9_9: no such quantizer"):
        fit(micro, "iq3_s", fallbacks=("q9_9",))
