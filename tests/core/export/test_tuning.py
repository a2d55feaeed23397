import pytest

from conform.core.errors import PlanError
from conform.core.export.tuning import Tuning


def test_choices_reach_the_quantizers_that_have_them(registry):
    tuning = Tuning("best", "optimal")
    assert tuning.apply(registry.quantizer("i2_s")).ternary_scale == "optimal"
    tuned = tuning.apply(registry.quantizer("iq3_s"))
    assert tuned != registry.quantizer("iq3_s")
    assert tuned.layout == registry.quantizer("iq3_s").layout
    assert tuning.apply(registry.quantizer("f16")) is registry.quantizer("f16")


def test_a_ternary_scale_without_a_ternary_quantizer_is_refused(registry):
    Tuning(ternary_scale="optimal").check([registry.quantizer("f16"), registry.quantizer("i2_s")])
    Tuning().check([registry.quantizer("f16")])
    with pytest.raises(PlanError, match="none of f16, q8_0 ternarises"):
        Tuning(ternary_scale="optimal").check([registry.quantizer("f16"), registry.quantizer("q8_0")])
