"""greedy: free-running generation against the reference, token by token; a mismatch is excused at a near-tie only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from conform.contract.finding import Finding
from conform.parity.verdict import Measurement, RungResult, judged

__all__ = ["GreedyRun", "GreedyToken", "judge_greedy"]


@dataclass(frozen=True, slots=True)
class GreedyToken:
    """One step: the token that was chosen, the one that the runtime calls best, and the reference's best.

    `gap` is how far the chosen token lies behind in the reference, `tie` the largest gap that the measured difference
    can close.
    """

    chosen: int
    claimed: int
    best: int
    gap: float
    tie: float

    @property
    def differs(self) -> bool:
        """True when the reference would have chosen another."""
        return self.chosen != self.best

    @property
    def excused(self) -> bool:
        """True when the two tokens are so near that either is right."""
        return self.differs and self.gap <= self.tie


@dataclass(frozen=True, slots=True)
class GreedyRun:
    """One run, and its text: watched, unwatched, and with the same tokens forced."""

    name: str
    tokens: Sequence[GreedyToken]
    text: bytes
    unwatched: bytes
    forced: bytes


def judge_greedy(runs: Sequence[GreedyRun]) -> RungResult:
    """The reference follows the runtime's own tokens: after an excused mismatch both go on from the same text."""
    tokens = [token for run in runs for token in run.tokens]
    findings = [finding for run in runs for finding in _wrong(run)]
    measured = [
        Measurement("mismatches", len(findings), 0),
        Measurement("mismatches excused at a tie", sum(token.excused for token in tokens), len(tokens) // 10),
    ]
    return judged("greedy", len(tokens), "tokens", measured, findings)


def _wrong(run: GreedyRun) -> Iterator[Finding]:
    for number, token in enumerate(run.tokens):
        if token.differs and not token.excused:
            found = f"{token.chosen}, {token.gap:.3g} behind in the reference"
            yield Finding("error", f"{run.name}, token {number}", f"token {token.best}", found)
    for kind, text in (("the same run, unwatched", run.unwatched), ("the same tokens, forced", run.forced)):
        if text != run.text:
            yield Finding("error", f"{run.name}: text of {kind}", repr(run.text[-60:]), repr(text[-60:]))
    if any(token.chosen != token.claimed for token in run.tokens):
        yield Finding("error", run.name, "the best token at every step", "another one", "its sampler is not greedy")
