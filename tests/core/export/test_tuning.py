import pytest

from conform.core.errors import PlanError
from conform.core.export.tuning import Tuning


def test_choices_reach_the_quantizers_that_have_them(registry):
    tuning = Tuning("best", "optimal")
    assert tuning.apply(registry.codec("i2_s")).quantizer.ternary_scale == "optimal"
    tuned = tuning.apply(registry.codec("iq3_s"))
    assert tuned != registry.codec("iq3_s")
    assert tuned.layout == registry.codec("iq3_s").layout
    assert tuning.apply(registry.codec("f16")).quantizer is registry.codec("f16").quantizer


def test_a_ternary_scale_without_a_ternary_quantizer_is_refused(registry):
    Tuning(ternary_scale="optimal").check([registry.codec("f16"), registry.codec("i2_s")])
    Tuning().check([registry.codec("f16")])
    with pytest.raises(PlanError, match="none of f16, q8_0 ternarises"):
        Tuning(ternary_scale="optimal").check([registry.codec("f16"), registry.codec("q8_0")])
