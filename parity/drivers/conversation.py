"""Conversation: questions and answers as lines of JSON, with one process for each question or one for all."""

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from conform.core.runtime import Limits, RuntimeFault
from conform.parity.drivers.faults import raise_fault
from conform.parity.drivers.process import run_program
from conform.parity.drivers.session import Session

__all__ = ["MOST_SESSIONS", "Conversation", "OneShot", "SessionConversation"]

MOST_SESSIONS = 4
"""How often a program that ends or loses its place is started; one process more has asked it what it is."""


class Conversation(Protocol):
    """A program that can be asked."""

    def ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        """The JSON object that it answers with.

        Raises RuntimeFault when it does not answer with one.
        """
        ...

    def close(self) -> None:
        """End what is running."""
        ...


class OneShot:
    """Starts the program for each question, and ends its stdin behind it."""

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str], limits: Limits) -> None:
        self._arguments = arguments
        self._environment = environment
        self._limits = limits

    def ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        """See Conversation."""
        finished = run_program(self._arguments, self._environment, self._limits, _line(question))
        raise_fault(finished, self._limits)
        return _object(finished.stdout)

    def close(self) -> None:
        """See Conversation: each process ends with its answer."""


class SessionConversation:
    """Asks one process everything, one question at a time; each carries a number that the answer must repeat.

    A process that ended, or whose answers can no longer be told apart, is replaced, MOST_SESSIONS - 1 times at most.
    """

    def __init__(self, arguments: Sequence[str | Path], environment: Mapping[str, str], limits: Limits) -> None:
        self._arguments = arguments
        self._environment = environment
        self._limits = limits
        self._turn = threading.Lock()
        self._session: Session | None = None
        self._started = 0
        self._asked = 0
        self._last: RuntimeFault | None = None

    def ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        """See Conversation."""
        with self._turn:
            session = self._running()
            self._asked += 1
            try:
                reply = _object(session.ask(_line({"id": self._asked, **question})))
                self._require_number(reply)
            except RuntimeFault as fault:
                self._last = fault
                self._end()
                raise
            return reply

    def close(self) -> None:
        """See Conversation."""
        with self._turn:
            self._end()

    def _running(self) -> Session:
        if self._session is None:
            if self._started == MOST_SESSIONS and self._last is not None:
                tried = f"started {self._started} times, each of which it did not survive; the last time: "
                raise RuntimeFault(self._last.kind, tried + self._last.reason)
            self._session = Session(self._arguments, self._environment, self._limits)
            self._started += 1
        return self._session

    def _require_number(self, reply: Mapping[str, Any]) -> None:
        number = reply.get("id")
        if type(number) is not int or number != self._asked:
            raise RuntimeFault("answered wrongly", f"asked question {self._asked}, it answered {number!r:.40}")

    def _end(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


def _line(question: Mapping[str, object]) -> bytes:
    return json.dumps(question).encode() + b"\n"


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        reply = json.loads(line)
    except (ValueError, RecursionError):
        raise RuntimeFault("answered wrongly", "stdout is not one line of JSON") from None
    if not isinstance(reply, dict):
        raise RuntimeFault("answered wrongly", "stdout is not a JSON object")
    return reply
