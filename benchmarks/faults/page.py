"""The table of `docs/reliability.md`: what was measured last in each section, and of which commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from benchmarks import machine
from benchmarks.figures import Figure, number, table
from benchmarks.page import between, put_between

PAGE = machine.ROOT / "docs" / "reliability.md"
_HEADINGS = ("section", "what was done", "figure", "measured", "must", "verdict", "measured of")

Row = tuple[str, ...]


def rows(section: str, figures: Iterable[Figure]) -> list[Row]:
    """As they stand in the table, marked with commit and day."""
    stamp = f"{machine.commit()}, {datetime.now(UTC).date()}"
    return [
        (
            section,
            figure.work,
            figure.what,
            "-" if figure.value is None else _value(figure.value, figure.unit),
            f"{figure.goal.bound} {_value(figure.goal.must, figure.unit)}",
            figure.goal.verdict(figure.value),
            stamp,
        )
        for figure in figures
    ]


def _value(value: float, unit: str) -> str:
    """What has no unit is counted."""
    return number(value, unit) if unit else f"{value:,.0f}"


def shown(found: Iterable[Row]) -> str:
    return table(_HEADINGS, found)


def write(found: Sequence[Row], sections: Iterable[str]) -> None:
    """Put these rows into the page, in place of those of their sections; the others stay as they were."""
    kept: dict[str, list[Row]] = {section: [] for section in sections}
    for row in _read():
        kept.setdefault(row[0], []).append(row)
    new = _by_section(found)
    put_between(PAGE, shown(row for section, old in kept.items() for row in new.get(section, old)))


def _by_section(found: Iterable[Row]) -> Mapping[str, list[Row]]:
    sections: dict[str, list[Row]] = {}
    for row in found:
        sections.setdefault(row[0], []).append(row)
    return sections


def _read() -> list[Row]:
    """The rows that the page has now."""
    lines = [line for line in between(PAGE).splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]
