"""The command line: a root group that imports a command's module only when the command is called."""

import importlib
import io
import sys
from collections.abc import Mapping
from typing import Any

import click

from conform.core.cli.failure import CRASHED, named_crashes, report_failure, say, show_tracebacks, thread_crashes
from conform.core.cli.output import divert_stdout

__all__ = ["main"]

# Elsewhere there are no file locks, positioned writes or process limits, on which exports, training and parity rest.
_PLATFORMS = ("linux", "darwin")

# name → (module, attribute, help). The help stands here so that `conform --help` imports none of the modules.
_COMMANDS: Mapping[str, tuple[str, str, str]] = {
    "contract": ("conform.contract.cli.contract", "contract", "List, show, solve, compare and check contracts."),
    "tokenizer": ("conform.trainer.cli.tokenizer", "tokenizer", "Train and check a SentencePiece tokenizer."),
    "data": ("conform.trainer.cli.data", "data", "Build, verify and show token shards."),
    "train": ("conform.trainer.cli.train", "train", "Train a model to a checkpoint that its contract accepts."),
    "export": ("conform.core.cli.export", "export", "Export a checkpoint to GGUF."),
    "verify": ("conform.core.cli.verify", "verify", "Check a GGUF file against its contract."),
    "repack": ("conform.core.cli.repack", "repack", "Rewrite an i2_s file in another byte layout, losslessly."),
    "parity": ("conform.parity.cli.parity", "parity", "Judge a runtime against PyTorch."),
    "imatrix": ("conform.trainer.cli.imatrix", "imatrix", "Measure and show importance matrices."),
    "plugins": ("conform.plugins.cli.plugins", "plugins", "List, certify and create plugins."),
}


class _LazyGroup(click.Group):
    """Lists every command, loads the one that is called."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with named_crashes():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, _, summary) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="gguf-conform", prog_name="conform")
@click.option("--traceback", is_flag=True, help="Show where an error came from, not only what it is.")
def cli(traceback: bool) -> None:
    """Make a model that you trained run, provably the same, on the runtime that you ship.

    Exit status: 0 it conforms, 1 it does not, 2 the command was used wrongly or its input cannot be read, 70 an
    internal error.
    """
    show_tracebacks(traceback)


def main() -> None:
    """The console entry point: whatever ends a command without an answer is one line and exit status 2 or 70."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be UTF-8, nor need a terminal know every character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.platform not in _PLATFORMS:
        say(f"{sys.platform}: not a supported platform; conform runs on Linux and macOS (on Windows, in WSL)")
        sys.exit(2)
    with thread_crashes() as crashes:
        status = _run()
    sys.exit(CRASHED if crashes and status in (0, 1) else status)


def _run() -> int:
    try:
        status = cli.main(prog_name="conform", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can still be said that it failed
            divert_stdout()
    except BaseException as error:
        return report_failure(error)
    return status if isinstance(status, int) else 0


if __name__ == "__main__":
    main()
