"""integrity: what was judged is what was hashed, and the runtime left nothing behind."""

from collections.abc import Sequence

from conform.contract.finding import Finding
from conform.parity.custody import Kept
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["judge_integrity"]


def judge_integrity(kept: Sequence[Kept], findings: Sequence[Finding]) -> RungResult:
    """The files at the end against what they were before the first question, and the working folder against nothing."""
    measured = [Measurement("files changed, files left behind", len(findings), 0)]
    copied = sum(file.copied for file in kept)
    note = f"{copied} of {len(kept)} files judged in private copies, the others hashed before and after"
    return judged("integrity", len(kept), "files", measured, findings, [note])
