"""Check: one promise of the protocol, and what came of testing it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from conform.core.guard import described
from conform.plugins.testing.subject import Subject

__all__ = ["Check", "CheckFailed", "CheckResult", "NotApplicable", "Outcome", "require", "run_check"]

Outcome: TypeAlias = Literal["pass", "fail", "not applicable"]


@dataclass(frozen=True, slots=True)
class Check:
    """`run` returns what was measured, raises CheckFailed for a broken promise, NotApplicable where none was made."""

    id: str
    promise: str
    run: Callable[[Subject], str]


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What came of one check; `detail` is the measurement, the way in which it failed, or why it does not apply."""

    check: str
    promise: str
    outcome: Outcome
    detail: str


class CheckFailed(Exception):  # noqa: N818 - an outcome, not an error of the kit
    """A promise was broken; the message says how."""


class NotApplicable(Exception):  # noqa: N818 - likewise
    """The quantizer makes no such promise; the message says why."""


def require(kept: bool, detail: str) -> None:
    """Raises CheckFailed with the detail unless the promise was kept."""
    if not kept:
        raise CheckFailed(detail)


def run_check(check: Check, subject: Subject) -> CheckResult:
    """The result of one check; whatever a quantizer raises that the check did not expect is a failure."""
    try:
        outcome: Outcome = "pass"
        detail = check.run(subject)
    except NotApplicable as reason:
        outcome, detail = "not applicable", str(reason)
    except CheckFailed as failure:
        outcome, detail = "fail", str(failure)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a third party's code may raise anything
        outcome, detail = "fail", f"raised {described(error)}"
    return CheckResult(check.id, check.promise, outcome, detail)
