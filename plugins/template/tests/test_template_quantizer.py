import numpy as np
import pytest
from template_quantizer import TemplateQuantizer

from conform.plugins import QuantizeError
from conform.plugins.host import load_registry
from conform.plugins.testing import certify


def test_it_keeps_every_promise_of_the_protocol() -> None:
    certificate = certify(TemplateQuantizer())
    assert certificate, certificate


def test_conform_finds_it_once_it_is_installed() -> None:
    assert load_registry().owner("template_quantizer").startswith("template-quantizer ")


def test_golden_block() -> None:
    values = np.zeros(32, np.float32)
    values[:2] = [-8, 7]
    values[16] = 1
    # d = 1; codes 0 and 15, 9 at place 16, 8 elsewhere
    assert TemplateQuantizer().quantize(values).tobytes() == bytes.fromhex("003c 90 8f" + "88" * 14)


def test_a_row_that_is_not_whole_blocks_is_refused() -> None:
    with pytest.raises(QuantizeError, match="multiple of 32"):
        TemplateQuantizer().nbytes((4, 33))
