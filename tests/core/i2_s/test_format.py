import pytest

from conform.core.i2_s.format import I2_S, LAYOUTS, layout_of_variant, layouts_that_fit, variant_of_layout


def test_shapes_decide_which_layouts_fit():
    assert layouts_that_fit((4, 128)) == LAYOUTS
    assert layouts_that_fit((6, 128)) == ("x86", "arm")
    assert layouts_that_fit((4, 64)) == ("arm", "rows")
    assert layouts_that_fit((5, 60)) == ()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_has_a_decoder_under_its_variant(registry, layout):
    variant = variant_of_layout(layout)
    assert registry.decoder(I2_S, variant).layout.variant == variant
    assert layout_of_variant(variant) == layout
