"""Failure: what ended a command → one line on stderr and an exit status; a crash is never an answer.

0 and 1 are answers: it conforms, it does not. 2 is the user's to mend, 70 is a fault of conform or of what it runs on.
"""

import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from conform.contract.errors import ConformError
from conform.core.cli.extras import missing_extra
from conform.core.guard import described

__all__ = ["CRASHED", "CrashError", "named_crashes", "report_failure", "say", "show_tracebacks", "thread_crashes"]

CRASHED = 70
"""The exit status of an internal error, as sysexits.h has it."""

_LONGEST = 500  # characters of a message that somebody else wrote

_tracebacks = False


class CrashError(Exception):
    """What a library meant as the end of the process, or as something that click would take for an interruption."""


def show_tracebacks(wanted: bool) -> None:
    """What --traceback chooses: whether report_failure prints where an error came from."""
    global _tracebacks  # noqa: PLW0603  # one choice for the process, made before anything runs
    _tracebacks = wanted


def report_failure(error: BaseException, *, silent: bool = False) -> int:
    """The exit status of a command that this error ended; stderr says why, unless another process does: `silent`."""
    if isinstance(error, click.ClickException):
        error.show()
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        print("conform: interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError | SystemExit):
        # click and rich turn a broken pipe into status 1, which here means "does not conform".
        _discard_output()
        return 141
    if _tracebacks:
        traceback.print_exception(error)
    sentence, status = _explained(error)
    if not silent:
        say(sentence)
    return status


@contextmanager
def named_crashes() -> Iterator[None]:
    """Run a command's work; what a library means as the end of the process becomes CrashError: it is no answer."""
    try:
        yield
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # so rich ends a command whose reader has left
            raise
        raise CrashError(f"SystemExit: {error.code}") from error
    except EOFError as error:  # click would take it for an interruption
        raise CrashError(described(error)) from error


@contextmanager
def thread_crashes() -> Iterator[list[BaseException]]:
    """The list of what ended threads that nobody waits for, each said in one line when it happens."""
    crashes: list[BaseException] = []

    def crashed(thread: threading.ExceptHookArgs) -> None:
        if thread.exc_value is not None and not isinstance(thread.exc_value, SystemExit):
            crashes.append(thread.exc_value)
            crash = CrashError(f"in a thread: {described(thread.exc_value)}")
            crash.__cause__ = thread.exc_value
            report_failure(crash)

    before, threading.excepthook = threading.excepthook, crashed
    try:
        yield crashes
    finally:
        threading.excepthook = before


def say(sentence: str) -> None:
    """One line on stderr; it may quote a hostile file, and control characters must not reach the terminal."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)
    print(f"conform: {text}", file=sys.stderr)


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, ConformError):
        return str(error), 2
    if sentence := missing_extra(error):
        return sentence, 2
    if isinstance(error, OSError):
        _discard_output()
        where = "the output" if error.filename is None else os.fsdecode(error.filename)
        return f"{where}: {error.strerror or error}", 2
    what = str(error) if isinstance(error, CrashError) else described(error)
    hint = "" if _tracebacks else "; run `conform --traceback COMMAND …` to see where"
    return f"internal error: {what[:_LONGEST]}{hint}", CRASHED


def _discard_output() -> None:
    # What is still in the buffer would fail once more when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
