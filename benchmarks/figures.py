"""What must be reached, what was, and the tables that say so."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that `must` be kept and one we `aim` at; whether more is better is seen from `bound`."""

    bound: Literal["at least", "at most"]
    must: float
    aim: float | None = None

    def kept(self, value: float, limit: float | None) -> bool:
        if limit is None:
            return False
        return value >= limit if self.bound == "at least" else value <= limit

    def verdict(self, value: float | None) -> str:
        if value is None:
            return "not measured"
        if not self.kept(value, self.must):
            return "MISS"
        return "PASS, aim reached" if self.kept(value, self.aim) else "PASS"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table.

    Attributes:
        against: who else did the same work; empty = nobody.
        value: None = not measured.
        unit: what stands behind the numbers, with its own space.
    """

    work: str
    what: str
    against: str
    value: float | None
    goal: Goal
    unit: str = "x"

    @property
    def missed(self) -> bool:
        return self.goal.verdict(self.value) == "MISS"

    def cells(self) -> tuple[str, ...]:
        return (
            self.work,
            self.what,
            self.against or "-",
            "-" if self.value is None else number(self.value, self.unit),
            f"{self.goal.bound} {number(self.goal.must, self.unit)}",
            "-" if self.goal.aim is None else number(self.goal.aim, self.unit),
            self.goal.verdict(self.value),
        )


HEADINGS = ("work", "figure", "against", "measured", "must", "aim", "verdict")


def number(value: float, unit: str = "") -> str:
    """Readable at any size."""
    size = abs(value)
    digits = 0 if size >= 100 else 1 if size >= 10 else 2
    return f"{value:,.{digits}f}{unit}"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown, its columns aligned."""
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    written = [_line(line, widths) for line in lines]
    return "\n".join([written[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *written[1:]])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
