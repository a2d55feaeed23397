"""file: the GGUF file against its contract, and against the checkpoint that it says it comes from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["CheckedFile", "judge_file"]


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The number of tensors and keys, and what the verifier found wrong with them.

    `origin` holds the digests of what the file is compared with, by the key under which `keys` may carry them.
    """

    entries: int
    violations: Sequence[Finding]
    keys: Mapping[str, object]
    origin: Mapping[str, str]


def judge_file(file: CheckedFile) -> RungResult:
    """Closure of tensors and keys, offsets, sizes, values, and the digests that the file carries."""
    findings = [*file.violations, *_foreign(file)]
    wrong = sum(finding.severity == "error" for finding in findings)
    return judged("file", file.entries, "tensors and keys", [Measurement("violations", wrong, 0)], findings)


def _foreign(file: CheckedFile) -> Iterator[Finding]:
    """Digests of the file that are not those of what it is compared with."""
    for key, digest in file.origin.items():
        found = file.keys.get(key)
        if found is not None and found != digest:
            yield Finding("error", key, digest, str(found), "the file was exported from something else")
