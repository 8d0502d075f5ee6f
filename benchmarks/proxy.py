"""`python -m benchmarks.proxy`: what the router costs, beside nginx, a bare relay, and nothing at all.

The one who is measured has a core of its own; the load generator and the upstream share the other one.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import machine, page, scheduler
from benchmarks.contenders import Contender, bare_relay, router, upstream
from benchmarks.figures import Figure, Goal
from benchmarks.growth import memory_growth
from benchmarks.layers import Profile, profiled
from benchmarks.nginx import nginx
from benchmarks.real_model import STREAMS as REAL_STREAMS
from benchmarks.real_model import real_model
from benchmarks.rounds import (
    DOCUMENTS,
    ONE_DOCUMENT,
    ONE_STREAM,
    STREAMS,
    Sample,
    Samples,
    Work,
    interleaved,
    ratio,
)
from benchmarks.slow_streams import slow_streams

_NO_NGINX = "nginx is not installed, so nothing is compared with it (Debian: apt install nginx-light)."
_NOT_PINNED = "Everybody runs on any core: there are too few to pin to, or the system cannot pin."
_KIB, _MIB = 1024, 1024**2


@dataclass(frozen=True, slots=True)
class Scale:
    """How long everything goes on.

    Attributes:
        seconds: of one contender in one round.
        slow, slow_seconds: concurrent slow streams, and how long they are watched.
        chunks: over which growth is measured.
        answers: before that.
        tokens: of each stream of the real model in a round.
        grants: of the scheduler in a round.
    """

    rounds: int
    seconds: float
    slow: int
    slow_seconds: float
    chunks: int
    answers: int
    tokens: int
    grants: int


_FULL = Scale(5, 2.0, slow=1000, slow_seconds=4.0, chunks=1_000_000, answers=12_000, tokens=128, grants=50_000)
_QUICK = Scale(1, 0.5, slow=100, slow_seconds=1.0, chunks=50_000, answers=500, tokens=16, grants=5_000)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every part of the run needs."""

    scale: Scale
    cores: machine.Cores
    folder: Path

    def fast(self) -> tuple[dict[Work, Samples], float]:
        """The four fast kinds of work by all contenders, and the router's growth in bytes."""
        with self._contenders() as contenders:
            works = {}
            for work in (STREAMS, DOCUMENTS, ONE_DOCUMENT, ONE_STREAM):
                _say(f"{work.name}: {', '.join(contender.name for contender in contenders)}")
                works[work] = interleaved(contenders, work, rounds=self.scale.rounds, seconds=self.scale.seconds)
            _say(f"memory over {self.scale.chunks:,} chunks")
            return works, memory_growth(contenders[0], chunks=self.scale.chunks, warm_up=self.scale.answers)

    @contextlib.contextmanager
    def _contenders(self) -> Iterator[list[Contender]]:
        with (
            upstream(self.cores) as direct,
            router(self.cores, self.folder / "router") as ours,
            bare_relay(self.cores, direct.documents.port) as bare,
            nginx(self.cores, self.folder / "nginx", direct.documents.port) as plain,
        ):
            yield [ours, *([plain] if plain else []), bare, direct]

    def slow(self) -> list[Figure]:
        scale = self.scale
        _say(f"{scale.slow:,} slow streams")
        with upstream(self.cores) as direct, router(self.cores, self.folder / "slow") as relay:
            found = slow_streams(direct, relay, streams=scale.slow, rounds=scale.rounds, seconds=scale.slow_seconds)
        work = f"{scale.slow:,} streams, a chunk each 50 ms"
        return [
            Figure(work, "p99 delay added", "direct", found.added * 1000, Goal("at most", 10), " ms"),
            Figure(work, "memory per stream", "", found.per_stream / _KIB, Goal("at most", 100), " KiB"),
        ]

    def real(self) -> list[Figure]:
        _say(f"real llama.cpp, {REAL_STREAMS} streams")
        found = real_model(self.cores, self.folder / "real", rounds=self.scale.rounds, tokens=self.scale.tokens)
        work = f"real llama.cpp, {REAL_STREAMS} streams, {found.direct:,.0f} tokens/s directly"
        return [Figure(work, "tokens/s", "direct", found.ratio, Goal("at least", 0.97))]

    def profiles(self) -> dict[Work, Profile]:
        _say("CPU by layer")
        return {
            work: profiled(self.cores, self.folder / f"profile-{number}", work, 2 * self.scale.seconds)
            for number, work in enumerate((DOCUMENTS, STREAMS))
        }


def fast_figures(works: Mapping[Work, Samples], growth: float, chunks: int) -> list[Figure]:
    def against(name: str, work: Work, what: str, of: Callable[[Sample], float], goal: Goal) -> Figure:
        samples = works[work]
        value = ratio(samples, of, "router", name) if name in samples else None
        return Figure(work.name, what, name, value, goal)

    return [
        against("nginx", STREAMS, "chunks/s", _rate, Goal("at least", 0.85, 1.0)),
        against("nginx", STREAMS, "CPU per chunk", _cpu, Goal("at most", 2.0)),
        against("nginx", DOCUMENTS, "req/s", _rate, Goal("at least", 0.20, 0.5)),
        against("nginx", DOCUMENTS, "CPU per request", _cpu, Goal("at most", 12.0, 4.0)),
        against("bare relay", ONE_DOCUMENT, "p50", _wait, Goal("at most", 1.4)),
        against("bare relay", ONE_STREAM, "first byte p50", _wait, Goal("at most", 1.4)),
        Figure(f"growth over {chunks:,} chunks", "memory", "", growth / _MIB, Goal("at most", 2), " MiB"),
    ]


def _rate(sample: Sample) -> float:
    return sample.rate


def _cpu(sample: Sample) -> float:
    return sample.cpu


def _wait(sample: Sample) -> float:
    return sample.wait


def run(scale: Scale) -> tuple[str, bool]:
    """The report, and whether something that must be reached was missed."""
    cores = machine.cores()
    load = machine.load_average()
    machine.allow_many_sockets()
    machine.pin(cores.load)
    with tempfile.TemporaryDirectory(prefix="llama-router-bench-") as folder:
        bench = Bench(scale, cores, Path(folder))
        works, growth = bench.fast()
        figures = [*fast_figures(works, growth, scale.chunks), *bench.slow(), *bench.real()]
        profiles = bench.profiles()
    figures += scheduler.figures(rounds=scale.rounds, count=scale.grants)
    circumstances = page.Circumstances(
        commit=machine.commit(),
        machine=machine.description(),
        cores=str(cores),
        load=load,
        rounds=scale.rounds,
        notes=_notes(works, cores),
    )
    return page.report(circumstances, figures, works, profiles), any(figure.missed for figure in figures)


def _notes(works: Mapping[Work, Samples], cores: machine.Cores) -> tuple[str, ...]:
    without_nginx = _NO_NGINX if "nginx" not in works[STREAMS] else ""
    return tuple(note for note in (without_nginx, _NOT_PINNED if cores.relay is None else "") if note)


def _say(what: str) -> None:
    print(f"… {what}", file=sys.stderr, flush=True)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.proxy", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_FULL.rounds, metavar="N", help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="a short run that shows that it works, and nothing else")
    parser.add_argument("--write", action="store_true", help="keep the figures in docs/performance.md")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 1 when something that must be reached was missed."""
    options = _options(arguments)
    if sys.platform == "win32":
        print("The benchmark needs uvloop and POSIX signals; it does not run on Windows.", file=sys.stderr)
        return 2
    full = replace(_FULL, rounds=options.rounds)
    measured, missed = run(_QUICK if options.quick else full)
    print(measured)
    if options.write:
        page.write(measured)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
