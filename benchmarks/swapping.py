"""`python -m benchmarks.swapping`: five traces that fight for the memory of one model, simulated and for real.

Printed per trace and class: answers, the median, 95th percentile and longest wait (a wait that has not ended counts
with its length so far), and swaps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from benchmarks.figures import HEADINGS, Figure, table
from benchmarks.simulation import simulate
from benchmarks.stage import stage
from benchmarks.traces import SEED, TRACES, Outcome, Statistic, Trace, answers, longest, p50, p95, unanswered

SEEDS = 20
_DETAILS = ("class", "answers", "p50 s", "p95 s", "max s", "swaps")
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


def real(make: Callable[[int], Trace]) -> tuple[Trace, list[Outcome]]:
    trace = make(SEED)
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder), trace.models) as theatre:
        return trace, [theatre.play(trace)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swapping", description=__doc__)
    parser.add_argument("traces", nargs="*", metavar="TRACE", help=f"of {', '.join(TRACES)} (default: all)")
    parser.add_argument("--simulate", action="store_true", help="only under the virtual clock")
    parser.add_argument("--real", action="store_true", help="only against a running router; half a minute each")
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="simulated Zipf traces (default: 20)")
    options = parser.parse_args()
    if unknown := set(options.traces) - set(TRACES):
        parser.error(f"no such trace: {', '.join(sorted(unknown))}")
    makers = [TRACES[name] for name in options.traces or TRACES]
    figures: list[Figure] = []
    if not options.real:
        figures += _report("simulated", [simulated(make, options.seeds) for make in makers])
    if not options.simulate:
        figures += _report("real", [real(make) for make in makers])
    return int(any(figure.missed for figure in figures))


def _report(how: str, played: list[tuple[Trace, list[Outcome]]]) -> list[Figure]:
    print(
        table((f"{how}: trace", *_DETAILS), [line for trace, outcomes in played for line in details(trace, outcomes)])
    )
    figures = [figure for trace, outcomes in played for figure in verdicts(trace, outcomes, how)]
    print(f"\n{table(HEADINGS, [figure.cells() for figure in figures])}\n", flush=True)
    return figures


if __name__ == "__main__":
    sys.exit(main())
