import click
import pytest
from click.testing import CliRunner

from conform.trainer.cli.train import train


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tflops", "0"], "not in the range"),
        (["--tflops", "-1"], "not in the range"),
        (["--tflops", "nan"], "finite numbers"),
        (["--memory", "nan"], "finite numbers"),
        (["--sequence", "99999999999"], "at most 4096, the contract's context"),
    ],
)
def test_nonsense_is_refused_and_not_planned(arguments, message):
    command = ["plan", "--contract", "base-1.5b", *arguments]
    with pytest.raises(click.UsageError) as caught:
        CliRunner().invoke(train, command, catch_exceptions=False, standalone_mode=False)
    assert message in caught.value.format_message()
