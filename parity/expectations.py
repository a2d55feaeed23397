"""Expectations: deviations that a team knows and accepts, and numbers that may not get worse.

A deviation names its rung, its kind and its place in that rung; it has a reason and a day on which it expires. One that
is expected and no longer shows is a problem too: the file of expectations is then out of date.
"""

import datetime
import fnmatch
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from conform.contract.mapping import Rule, from_mapping, to_mapping
from conform.contract.toml import read_toml, toml_text
from conform.parity.verdict import RUNGS, RungName, RungResult, Verdict

__all__ = ["Deviation", "Expectations", "Pin", "expectations_of", "problems_of", "read_expectations"]

Kind: TypeAlias = Literal["finding", "measurement", "fault", "nothing compared", "not run"]

_FEW_MONTHS = datetime.timedelta(days=90)
_HEADER = """# Deviations that are known and accepted, for `conform parity --expect`. Each needs a reason.
# A [[pin]] with rung, measurement and at_most is a number that may not get worse; file names the files it holds for.
"""


def _is_day(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Deviation:
    """One accepted deviation; `file` is a shell pattern for the names of the files on which it shows.

    `place` is where the finding lies, the measurement's name, the fault's kind, or "" where the kind says all.
    """

    rung: RungName
    kind: Kind
    place: str
    reason: Annotated[str, Rule("why the deviation is accepted", lambda text: bool(text.strip()))]
    expires: Annotated[str, Rule("a day, such as 2027-01-31", _is_day)]
    file: str = "*"

    def __str__(self) -> str:
        return " ".join(part for part in (f"{self.rung}: {self.kind}", self.place) if part)


@dataclass(frozen=True, slots=True)
class Pin:
    """The largest value that a measurement of a rung may have; its tolerance holds as well."""

    rung: RungName
    measurement: str
    at_most: float
    file: str = "*"


@dataclass(frozen=True, slots=True)
class Expectations:
    """All that is expected of a runtime beyond that it conforms."""

    deviation: tuple[Deviation, ...] = ()
    pin: tuple[Pin, ...] = ()

    def to_toml(self) -> str:
        """The file that `read_expectations` reads."""
        entries = {"deviation": self.deviation, "pin": self.pin}
        tables = {name: [to_mapping(entry) for entry in listed] for name, listed in entries.items()}
        return _HEADER + "\n" + toml_text(tables)


def read_expectations(path: Path) -> Expectations:
    """The expectations in a TOML file. Raises InputError naming file and key for anything that does not belong."""
    return from_mapping(Expectations, read_toml(path, "a file of expectations"), str(path))


def expectations_of(verdicts: Sequence[Verdict], today: datetime.date) -> Expectations:
    """Every deviation of these verdicts, to be accepted for three months once a reason is given for it."""
    expires = (today + _FEW_MONTHS).isoformat()
    found: dict[tuple[RungName, Kind, str], list[str]] = {}
    for verdict in verdicts:
        for key in _deviations(verdict):
            found.setdefault(key, []).append(Path(verdict.model).name)
    return Expectations(
        tuple(
            Deviation(*key, reason="", expires=expires, file="*" if len(files) == len(verdicts) else file)
            for key, files in found.items()
            for file in (files if len(files) < len(verdicts) else files[:1])
        )
    )


def problems_of(verdict: Verdict, expectations: Expectations, today: datetime.date) -> list[str]:
    """Why the verdict is not what was expected, a sentence each; none when it is."""
    name = Path(verdict.model).name
    expected = [deviation for deviation in expectations.deviation if fnmatch.fnmatchcase(name, deviation.file)]
    accepted = {(deviation.rung, deviation.kind, deviation.place) for deviation in expected}
    found = set(_deviations(verdict))
    problems = [] if [rung.rung for rung in verdict.rungs] == list(RUNGS) else ["not every rung is there"]
    problems += [f"not expected: {_said(*key)}" for key in _deviations(verdict) if key not in accepted]
    for deviation in expected:
        if (deviation.rung, deviation.kind, deviation.place) not in found:
            problems.append(f"expected, but it no longer shows: {deviation}; take it out of the expectations")
        elif datetime.date.fromisoformat(deviation.expires) < today:
            problems.append(f"accepted until {deviation.expires} only: {deviation}; reason: {deviation.reason}")
    pins = (pin for pin in expectations.pin if fnmatch.fnmatchcase(name, pin.file))
    return [*problems, *(problem for pin in pins for problem in _check_pin(pin, verdict.rungs))]


def _deviations(verdict: Verdict) -> Iterator[tuple[RungName, Kind, str]]:
    """(rung, kind, place) of everything that keeps the verdict from passing, each once."""
    yield from dict.fromkeys(
        (rung.rung, kind, place) for rung in verdict.rungs if not rung.suffices for kind, place in _of_rung(rung)
    )


def _of_rung(rung: RungResult) -> Iterable[tuple[Kind, str]]:
    if rung.status == "not run":
        return [("not run", " and ".join(rung.blocked_by) and f"behind {' and '.join(rung.blocked_by)}")]
    if rung.fault is not None:
        return [("fault", rung.fault)]
    if not rung.compared:
        return [("nothing compared", "")]
    measured: list[tuple[Kind, str]] = [("measurement", m.name) for m in rung.measurements if not m.passed]
    return [*measured, *(("finding", finding.where) for finding in rung.findings if finding.severity == "error")]


def _check_pin(pin: Pin, rungs: Sequence[RungResult]) -> Iterator[str]:
    values = [
        measurement.measured
        for rung in rungs
        if rung.rung == pin.rung
        for measurement in rung.measurements
        if measurement.name == pin.measurement
    ]
    if not values:
        yield f"pinned, but not measured: {pin.rung}: {pin.measurement}"
    for value in values:
        if not (math.isfinite(value) and value <= pin.at_most):
            yield f"{pin.rung}: {pin.measurement} is {value:.3g}, pinned to at most {pin.at_most:.3g}"


def _said(rung: RungName, kind: Kind, place: str) -> str:
    return f"{rung}: {kind}" + (f" {place}" if place else "")
