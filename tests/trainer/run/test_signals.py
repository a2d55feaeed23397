import os
import signal

import pytest

from conform.trainer.run.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number):
    with StopRequest() as request:
        os.kill(os.getpid(), number)
        assert request.signal == number


def test_the_second_signal_stops_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_the_echo_of_a_signal_is_no_second_one():
    with StopRequest(echo=60) as request:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.signal == signal.SIGTERM


def test_after_the_echo_the_second_signal_stops_at_once():
    with StopRequest(echo=60, clock=iter([0.0, 61.0]).__next__):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


class TwoProcesses:
    """Sums as they are in two processes, of which the other one had that signal."""

    def __init__(self, other):
        self.other = other

    def sums(self, values):
        others = [float(self.other == number) for number in (signal.SIGINT, signal.SIGTERM)]
        return [mine + theirs for mine, theirs in zip(values, others, strict=True)]


@pytest.mark.parametrize(
    ("mine", "other", "agreed"),
    [
        (0, 0, 0),
        (0, signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, 0, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGTERM, signal.SIGTERM),
        (signal.SIGTERM, signal.SIGINT, signal.SIGINT),
    ],
)
def test_processes_agree_on_a_signal_that_one_of_them_had(mine, other, agreed):
    request = StopRequest()
    request.signal = mine
    assert request.agreed(TwoProcesses(other)) == agreed
