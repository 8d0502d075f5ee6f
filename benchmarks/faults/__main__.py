"""`python -m benchmarks.faults`: what is lost when things break, with a verdict on each figure.

Each section can be run alone (`--only kills,drain`); `--quick` takes minutes instead of most of an hour, and says how
much less was done; `--write` puts the figures into docs/reliability.md, where those of other sections stay.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import disconnects, drain, machine
from benchmarks.contenders import router
from benchmarks.faults import cancels, crash_loop, hangs, kills, page, routers
from benchmarks.figures import Figure, Goal


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is done. Times in seconds."""

    kills: int = 1_000
    routers: int = 200
    hangs: int = 5
    prefill: float = 3600.0
    streams: int = 100
    crash_loop: float = 600.0
    disconnects: int = 200
    cancels: int = 1_000_000
    fuzz: float = 1800.0


QUICK = Extent(kills=50, routers=5, hangs=1, prefill=30, crash_loop=60, disconnects=50, cancels=20_000, fuzz=30)


def _disconnects(extent: Extent, folder: Path) -> list[Figure]:
    cores = machine.Cores(None, None)
    with router(cores, folder) as contender:
        return [figure for figure in disconnects.figures(disconnects.measure(contender.streams, extent.disconnects))
                if "p99" in figure.what]  # fmt: skip


def _loop(extent: Extent, folder: Path) -> list[Figure]:  # noqa: ARG001
    goal = Goal("at most", 50)
    stalls = _elsewhere("benchmarks.loop_stalls")
    if stalls is None:
        return [
            Figure("children spawned, headers parsed and hashed", "longest stall of the loop", "", None, goal, " ms")
        ]
    found: dict[str, float] = dict(stalls.run())
    work = f"the loop's longest stall ({found.pop('nothing', 0):.1f} ms with nothing to do)"
    return [Figure(work, what, "", milliseconds, goal, " ms") for what, milliseconds in found.items()]


def _fuzz(extent: Extent, folder: Path) -> list[Figure]:  # noqa: ARG001
    fuzz = _elsewhere("benchmarks.fuzz")
    if fuzz is None:
        work, what = "the API, raw sockets, bodies, GGUFs, configurations", "5xx made by the router, hangs, crashes"
        return [Figure(work, what, "", None, Goal("at most", 0), "")]
    found: list[Figure] = fuzz.figures(extent.fuzz)
    return found


def _elsewhere(module: str) -> Any:
    """A measurement that has a program of its own; None where it is not there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


SECTIONS: Mapping[str, Callable[[Extent, Path], list[Figure]]] = {
    "kills": lambda extent, folder: kills.measure(folder, extent.kills),
    "routers": lambda extent, folder: routers.measure(folder, extent.routers),
    "hangs": lambda extent, folder: hangs.measure(folder, times=extent.hangs, prefill_seconds=extent.prefill),
    "drain": lambda extent, _: drain.measure(extent.streams).figures(),
    "crash loop": lambda extent, folder: crash_loop.measure(folder, extent.crash_loop),
    "disconnects": _disconnects,
    "loop": _loop,
    "cancels": lambda extent, folder: cancels.measure(folder, extent.cancels),
    "fuzz": _fuzz,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when something is missed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="do much less of everything")
    parser.add_argument(
        "--only", type=_sections, default=tuple(SECTIONS), metavar="SECTION,…", help=", ".join(SECTIONS)
    )
    parser.add_argument("--write", action="store_true", help=f"put the table into {page.PAGE.name}")
    parser.add_argument(
        "--minutes", type=float, metavar="N", help="of long prompts, and of fuzz (60 and 30 by default)"
    )
    options = parser.parse_args(arguments)
    machine.allow_many_sockets()
    extent = QUICK if options.quick else Extent()
    if options.minutes is not None:
        extent = replace(extent, prefill=options.minutes * 60, fuzz=options.minutes * 60)
    found: list[page.Row] = []
    figures: list[Figure] = []
    broken = False
    for section in options.only:
        try:
            with tempfile.TemporaryDirectory(prefix="faults-") as folder:
                measured = SECTIONS[section](extent, Path(folder))
        except Exception:  # noqa: BLE001  the others are measured nevertheless
            broken = True
            print(f"{section} could not be measured:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
            continue
        figures += measured
        found += page.rows(section, measured)
        print(page.shown(page.rows(section, measured)), end="\n\n", flush=True)
    print(page.shown(found))
    if options.write:
        page.write(found, SECTIONS)
    return int(broken or any(figure.missed for figure in figures))


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
