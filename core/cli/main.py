"""The command line: a root group that imports a command's module only when the command is called."""

import importlib
import io
import os
import sys
from collections.abc import Mapping

import click

from conform.contract.errors import ConformError

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
def cli() -> None:
    """Make a model that you trained run, provably the same, on the runtime that you ship.

    Exit status: 0 it conforms, 1 it does not, 2 the command was used wrongly or its input cannot be read.
    """


def main() -> None:
    """The console entry point: turns what a user can cause into one sentence and exit status 2."""
    for stream in (sys.stdout, sys.stderr):
        # A file name need not be UTF-8, nor need a terminal know every character.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    if sys.platform not in _PLATFORMS:
        _say(f"{sys.platform}: not a supported platform; conform runs on Linux and macOS (on Windows, in WSL)")
        sys.exit(2)
    try:
        status = cli.main(prog_name="conform", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where it can still be said that it failed
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        print("conform: interrupted", file=sys.stderr)
        sys.exit(130)
    except ConformError as error:
        _say(str(error))
        sys.exit(2)
    except (BrokenPipeError, SystemExit) as error:
        # click and rich turn a broken pipe into status 1, which here means "does not conform".
        if isinstance(error, SystemExit) and error.code != 1:
            raise
        _discard_output()
        sys.exit(141)
    except OSError as error:
        _discard_output()
        where = "the output" if error.filename is None else os.fsdecode(error.filename)
        _say(f"{where}: {error.strerror or error}")
        sys.exit(2)
    sys.exit(status if isinstance(status, int) else 0)


def _discard_output() -> None:
    # What is still in the buffer would fail once more when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _say(sentence: str) -> None:
    # It may quote a hostile file: control characters must not reach the terminal.
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)
    print(f"conform: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
