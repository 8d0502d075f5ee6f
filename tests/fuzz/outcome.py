"""What a round of fuzzing has found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

_SHOWN = 1200  # bytes of what was sent


class Kind(Enum):
    """What may not happen. The first three are the figures that are promised."""

    FAULT = "5xx made by the router"
    HANG = "no answer, or no end, within the deadline"
    CRASH = "ended, or answered nobody any more"
    BREACH = "not as documented"


@dataclass(frozen=True, slots=True)
class Finding:
    """Attributes:
    work: which kind of fuzz.
    what: what came of it, one sentence.
    sent: what it came of, enough to do it again.
    """

    kind: Kind
    work: str
    what: str
    sent: bytes | str

    def __str__(self) -> str:
        return f"{self.kind.name} [{self.work}] {self.what}\n    {self.sent[:_SHOWN]!r}"


@dataclass(slots=True)
class Outcome:
    """Attributes:
    tries: requests, files or documents by the kind of fuzz.
    child_errors: 5xx that were the model's server's own, by their message.
    slowest: CPU milliseconds of the slowest try, by the kind of fuzz, where that was measured.
    """

    tries: Counter[str] = field(default_factory=Counter)
    findings: list[Finding] = field(default_factory=list)
    child_errors: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)

    def count(self, kind: Kind) -> int:
        return sum(finding.kind is kind for finding in self.findings)

    def add(self, other: Outcome) -> None:
        self.tries += other.tries
        self.findings += other.findings
        self.child_errors += other.child_errors
        for work, milliseconds in other.slowest.items():
            self.slowest[work] = max(milliseconds, self.slowest.get(work, 0.0))

    def __str__(self) -> str:
        """Everything that was found, for the message of a failed test."""
        return "\n".join(map(str, self.findings)) or "nothing found"
