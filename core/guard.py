"""Guard: whatever a third party's code raises becomes one sentence that names whose code it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from conform.core.errors import PluginError

__all__ = ["described", "guarded"]


@contextmanager
def guarded(failure: str, *passing: type[BaseException]) -> Iterator[None]:
    """Run a third party's code; `failure` begins the sentence: `quantizer q4 of acme 1.0 failed`.

    Raises PluginError for whatever is raised inside, sys.exit() included; only the user's interruption passes, and
    what is listed as `passing`.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, *passing)):
            raise
        raise PluginError(f"{failure}: {described(error)}") from error


def described(error: BaseException) -> str:
    """Type and message of an exception on one line, also of one whose message cannot be made."""
    try:
        message = " ".join(str(error).split())
    except Exception:  # a third party's exception may fail to describe itself
        message = "no message"
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
