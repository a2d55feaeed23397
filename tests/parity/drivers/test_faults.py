import sys

import pytest

from conform.core.runtime import Limits, RuntimeFault
from conform.parity.drivers.faults import raise_fault
from conform.parity.drivers.process import Finished, run_program

LIMITS = Limits(seconds=20.0, memory=1 << 30, output=1 << 20)


def fault(finished):
    with pytest.raises(RuntimeFault) as raised:
        raise_fault(finished, LIMITS)
    return raised.value


def ended(code, stderr):
    return Finished("exited", code, b"", stderr)


def test_an_exit_with_status_0_is_no_fault():
    raise_fault(ended(0, b"panic: never happened"), LIMITS)


@pytest.mark.parametrize(
    ("code", "stderr", "kind"),
    [
        (1, b"2026/01/01 00:00:00 load model: no such tensor\n", "refused"),
        (2, b"flag provided but not defined: -x\n", "refused"),
        (2, b"panic: runtime error: index out of range\n", "crashed"),
        (2, b"fatal error: all goroutines are asleep\n", "crashed"),
        (1, b'Traceback (most recent call last):\n  File "x.py", line 1\nMemoryError\n', "crashed"),
        (101, b"thread 'main' panicked at src/main.rs:2:5:\n", "crashed"),
        (7, b"", "answered wrongly"),
    ],
)
def test_only_stderr_tells_a_refusal_from_a_crash(code, stderr, kind):
    assert fault(ended(code, stderr)).kind == kind


def test_a_python_program_out_of_memory_crashed_and_says_so():
    done = run_program([sys.executable, "-I", "-c", "raise MemoryError('no room')"], {}, LIMITS)
    found = fault(done)
    assert (found.kind, found.reason) == ("crashed", "exit status 1: MemoryError: no room")


def test_control_characters_of_stderr_are_not_repeated():
    assert "\x1b" not in fault(ended(1, b"\x1b[2Jgone")).reason
