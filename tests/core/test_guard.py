import pytest

from conform.core.errors import PluginError, QuantizeError
from conform.core.guard import described, guarded


@pytest.mark.parametrize("error", [ValueError("a\nb"), SystemExit(0), GeneratorExit(), StopIteration(), MemoryError()])
def test_whatever_is_raised_becomes_one_sentence(error):
    with pytest.raises(PluginError) as caught, guarded("quantizer q of acme 1.0 failed"):
        raise error
    assert str(caught.value) == f"quantizer q of acme 1.0 failed: {described(error)}"
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), QuantizeError("refused")])
def test_the_users_interruption_passes_and_what_is_listed(error):
    with pytest.raises(type(error)), guarded("it failed", QuantizeError):
        raise error


@pytest.mark.parametrize(
    ("error", "text"),
    [(ValueError("a\n  b"), "ValueError: a b"), (ValueError(), "ValueError"), (SystemExit(), "SystemExit")],
)
def test_an_error_is_described_on_one_line(error, text):
    assert described(error) == text
