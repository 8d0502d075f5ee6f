"""The page that keeps the figures: `docs/performance.md`. Only what stands between its marks is written here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import machine
from benchmarks.figures import HEADINGS, Figure, number, table
from benchmarks.layers import Profile
from benchmarks.rounds import Sample, Samples, Work, middle

PAGE = machine.ROOT / "docs" / "performance.md"
_BEGIN, _END = "<!-- measured -->", "<!-- /measured -->"
_MICRO = 1e6
_LISTED = 12
_SEEN = 0.0005


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Attributes:
    load: average of the machine's last minute before the start.
    notes: what was left out, and why.
    """

    commit: str
    machine: str
    cores: str
    load: float
    rounds: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        when = f"Commit {self.commit}, {datetime.now(UTC).date()}"
        where = f"{self.machine}; {self.cores}; load average {self.load:.2f} at the start"
        return "\n\n".join([f"{when}. {where}. Medians of {self.rounds} rounds.", *self.notes])


def report(
    circumstances: Circumstances,
    figures: Sequence[Figure],
    works: Mapping[Work, Samples],
    profiles: Mapping[Work, Profile],
) -> str:
    """Everything measured, in Markdown."""
    parts = [str(circumstances), table(HEADINGS, [figure.cells() for figure in figures])]
    if works:
        parts += ["### Medians behind the ratios", _medians(works)]
    for work, profile in profiles.items():
        cost = middle(works[work]["router"]).cpu
        parts += [f"### CPU by layer: {work.name}", _layers(work, profile, cost), _functions(work, profile)]
    return "\n\n".join(parts)


def write(measured: str) -> None:
    """Put this into the page. Raises ValueError when its marks are gone."""
    put_between(PAGE, measured)


def between(page: Path) -> str:
    """What stands between the marks of a page. Raises ValueError when they are gone."""
    return _parts(page)[1]


def put_between(page: Path, text: str) -> None:
    """Replace it."""
    before, _, after = _parts(page)
    page.write_text(f"{before}{_BEGIN}\n\n{text}\n\n{_END}{after}", encoding="utf-8")


def _parts(page: Path) -> tuple[str, str, str]:
    before, begin, rest = page.read_text(encoding="utf-8").partition(_BEGIN)
    measured, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{page} must hold {_BEGIN} and {_END}, between which the figures go")
    return before, measured, after


def _medians(works: Mapping[Work, Samples]) -> str:
    headings = ("work", "who", "per second", "µs of CPU each", "core busy", "first byte p50, µs")
    rows = [
        (work.name, name, *_sample_cells(middle(samples)))
        for work, by_name in works.items()
        for name, samples in by_name.items()
    ]
    return table(headings, rows)


def _sample_cells(sample: Sample) -> tuple[str, ...]:
    cpu = (number(sample.cpu * _MICRO), f"{sample.busy:.0%}") if sample.cpu else ("-", "-")
    return (f"{sample.rate:,.0f}", *cpu, number(sample.wait * _MICRO))


def _layers(work: Work, profile: Profile, cost: float) -> str:
    unit = "chunk" if work.stream else "request"
    rows = [
        (layer, f"{share:.1%}", number(share * cost * _MICRO))
        for layer, share in profile.shares.items()
        if share > _SEEN
    ]
    return table(("layer", "share", f"µs per {unit}"), rows)


def _functions(work: Work, profile: Profile) -> str:
    unit = "chunk" if work.stream else "request"
    rows = [(f"`{name}`", f"{share:.1%}", number(calls)) for share, calls, name in profile.functions[:_LISTED]]
    return table(("function, its own time", "share", f"calls per {unit}"), rows)
