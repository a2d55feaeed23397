"""Finding: the one currency of every check."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["Finding", "Severity", "failed"]

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation: `where` names the tensor, key or file; an error fails the check, a warning does not."""

    severity: Severity
    where: str
    expected: str
    found: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        return f"{self.where}: expected {self.expected}, found {self.found}{hint}"

    def to_json(self) -> dict[str, str]:
        """Every field, for a JSON report."""
        return dataclasses.asdict(self)


def failed(findings: Iterable[Finding]) -> bool:
    """True when any finding is an error."""
    return any(finding.severity == "error" for finding in findings)
