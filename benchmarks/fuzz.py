"""`python -m benchmarks.fuzz --minutes 30`: nonsense from all sides, and what came of it.

Rounds of a few minutes, each with a router of its own, by turns before fakes and before real llama.cpp: its OpenAPI
page taken at its word, raw sockets, spoiled bodies, spoiled answers of a model's server, spoiled GGUFs, spoiled
settings. What is found is printed with what it came of; the seed makes a round repeatable as far as time allows.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.figures import Figure, Goal, table
from tests.fuzz import bodies, configs, exchanges, gguf_files, heads, schema, upstreams
from tests.fuzz.budget import Budget
from tests.fuzz.outcome import Finding, Kind, Outcome
from tests.fuzz.site import CHAT, EMBED, fuzzed_router, target_of
from tests.support.models import TOOLS, make_models
from tests.support.router import RunningRouter

ROUND = 120.0  # seconds
# What each kind gets of a round.
_SHARES: Mapping[str, float] = {
    schema.WORK: 0.25, "heads": 0.2, "bodies": 0.25, upstreams.WORK: 0.1, gguf_files.WORK: 0.08, configs.WORK: 0.12,
}  # fmt: skip
_PROMISED = (Kind.FAULT, Kind.HANG, Kind.CRASH)
_TRACEBACK = "Traceback (most recent call last)"


def run(seconds: float, *, seed: int | None = None, llama: bool = True) -> Outcome:
    """Rounds for so long.

    Args:
        llama: every other round before real llama.cpp.
    """
    logging.getLogger("router").setLevel(logging.ERROR)  # the upstreams of this process break off often
    seed = secrets.randbits(32) if seed is None else seed
    outcome, began, number = Outcome(), monotonic(), 0
    while (left := began + seconds - monotonic()) > 0 or number == 0:
        found = _round(f"{seed}{number:04}", min(ROUND, left), llama=llama and number % 2 == 1)
        for finding in found.findings:
            print(f"round {number} of seed {seed}: {finding}", flush=True)
        outcome.add(found)
        number += 1
        print(f"round {number}: {sum(outcome.tries.values()):,} tries, {len(outcome.findings)} findings", flush=True)
    return outcome


def figures(seconds: float) -> list[Figure]:
    """The same as lines of a table."""
    outcome = run(seconds)
    done = ", ".join(f"{count:,} {work}" for work, count in sorted(outcome.tries.items()))
    work = f"{seconds / 60:.0f} min of fuzz: {done}"
    return [Figure(work, kind.value, "", outcome.count(kind), Goal("at most", 0), "") for kind in _PROMISED] + [
        Figure(work, f"CPU of the slowest {kind}", "", outcome.slowest.get(kind), Goal("at most", most), " ms")
        for kind, most in ((gguf_files.WORK, gguf_files.MOST_MS),)
    ]


def _round(seed: str, seconds: float, *, llama: bool) -> Outcome:
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        folder = Path(name)
        files = make_models(folder)
        models = {CHAT: files.entry("chat", *TOOLS), EMBED: files.entry("embed")} if llama else None
        budgets = {work: Budget(seconds=seconds * share) for work, share in _SHARES.items()}
        with fuzzed_router(folder / "router", models) as running:
            _fuzz_router(running, int(seed), budgets, outcome)
            outcome.findings += _aftermath(running)
        files.slow.unlink()  # too large to be spoiled often
        rest: Mapping[str, Callable[..., Outcome]] = {
            gguf_files.WORK: partial(gguf_files.fuzz, int(seed), folder),
            configs.WORK: partial(configs.fuzz, int(seed), _folder(folder / "settings")),
            upstreams.WORK: lambda budget: asyncio.run(upstreams.fuzz(_folder(folder / "site"), int(seed), budget)),
        }
        for work, fuzz in rest.items():
            outcome.add(fuzz(budgets[work]))
    return outcome


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _fuzz_router(running: RunningRouter, seed: int, budgets: Mapping[str, Budget], outcome: Outcome) -> None:
    target = target_of(running)

    spoiled = partial(bodies.draw, target=target, chat=CHAT, embed=EMBED)
    works: Mapping[str, Callable[[Budget], Any]] = {
        "heads": lambda budget: exchanges.fuzz("heads", partial(heads.draw, target=target), target, seed, budget,
                                               whole=False),
        "bodies": lambda budget: exchanges.fuzz("bodies", spoiled, target, seed, budget, whole=True),
        schema.WORK: partial(schema.fuzz, target, seed),
    }  # fmt: skip
    for work, fuzz in works.items():
        outcome.add(asyncio.run(fuzz(budgets[work])))


def _aftermath(running: RunningRouter) -> list[Finding]:
    """Whether it came through, and ends as it should."""
    log, found = running.log, []
    if _TRACEBACK in log:
        found.append(Finding(Kind.FAULT, "log", "a traceback", log[log.index(_TRACEBACK) :]))
    if running.process.poll() is not None:
        return [*found, Finding(Kind.CRASH, "process", f"the router ended: {running.process.returncode}", log[-2000:])]
    try:
        if code := running.stop(signal.SIGTERM):
            found.append(Finding(Kind.CRASH, "process", f"exit code {code} after SIGTERM", log[-2000:]))
    except subprocess.TimeoutExpired:
        found.append(Finding(Kind.HANG, "process", "SIGTERM did not end it", log[-2000:]))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--fakes", action="store_true", help="no round before real llama.cpp")
    asked = parser.parse_args()
    outcome = run(asked.minutes * 60, seed=asked.seed, llama=not asked.fakes)
    print(table(("kind of fuzz", "tries"), [(work, f"{count:,}") for work, count in sorted(outcome.tries.items())]))
    print(table(("finding", "count"), [(kind.value, str(outcome.count(kind))) for kind in Kind]))
    print(table(("kind of fuzz", "slowest, CPU ms"), [(work, f"{ms:.0f}") for work, ms in outcome.slowest.items()]))
    print(table(("5xx of the model's server", "count"), [(m, str(n)) for m, n in outcome.child_errors.most_common()]))
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
