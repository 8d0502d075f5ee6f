"""`python -m benchmarks.swapping`: five traces that fight for the memory of one model, simulated and for real.

Printed per trace and class: answers, the median, 95th percentile and longest wait (a wait that has not ended counts
with its length so far), and swaps.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from statistics import median

from benchmarks.figures import HEADINGS, Figure, table
from benchmarks.simulation import simulate
from benchmarks.traces import SEED, TRACES, Outcome, Statistic, Trace, answers, longest, p50, p95, unanswered

SEEDS = 20
_DETAILS = ("trace", "class", "answers", "p50 s", "p95 s", "max s", "swaps")
_NAMES: Mapping[Statistic, str] = {
    answers: "answers",
    unanswered: "unanswered",
    p50: "p50",
    p95: "p95",
    longest: "longest wait",
}


def _middle(outcomes: list[Outcome], statistic: Statistic, label: str) -> float:
    return median(statistic(outcome, label) for outcome in outcomes)


def details(trace: Trace, outcomes: list[Outcome]) -> list[tuple[str, ...]]:
    """A line for each class: the medians over the outcomes."""
    swaps = median(outcome.swaps for outcome in outcomes)
    lines = []
    for label in trace.labels:
        figures = [_middle(outcomes, statistic, label) for statistic in (answers, p50, p95, longest)]
        lines.append((trace.name, label, f"{figures[0]:g}", *(f"{one:.2f}" for one in figures[1:]), f"{swaps:g}"))
    return lines


def verdicts(trace: Trace, outcomes: list[Outcome], how: str) -> list[Figure]:
    """A line for each bound."""
    found = []
    for bound in trace.bounds:
        value = _middle(outcomes, bound.statistic, bound.label)
        unit = "" if bound.statistic in {answers, unanswered} else " s"
        what = f"{_NAMES[bound.statistic]}, {bound.label}"
        found.append(Figure(trace.name, what, how, value, bound.goal, unit))
    return found


def simulated(make: Callable[[int], Trace], seeds: int) -> tuple[Trace, list[Outcome]]:
    traces = [make(SEED + n) for n in range(seeds if make(SEED).arrivals else 1)]
    return traces[0], [simulate(trace) for trace in traces]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swapping", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help=f"of {', '.join(TRACES)} (default: all)")
    parser.add_argument("--simulate", action="store_true", help="only under the virtual clock")
    parser.add_argument("--real", action="store_true", help="only against a running router")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N")
    options = parser.parse_args()
    lines: list[tuple[str, ...]] = []
    figures: list[Figure] = []
    for name in options.traces or TRACES:
        trace, outcomes = simulated(TRACES[name], options.seeds)
        lines += details(trace, outcomes)
        figures += verdicts(trace, outcomes, "simulated")
    print(table(_DETAILS, lines))
    print()
    print(table(HEADINGS, [figure.cells() for figure in figures]))
    return int(any(figure.missed for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
