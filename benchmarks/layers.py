"""Where the router's CPU time goes, by layer: a run of its own, first with the collector timed, then under cProfile.

Time in C functions is counted to the layer that called them. What no Python function accounts for is the event loop and
the C code of asyncio's tasks. The kernel's part is measured before, without cProfile.
"""

from __future__ import annotations

import pstats
import re
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, cast

from benchmarks.contenders import Contender, router
from benchmarks.machine import Cores
from benchmarks.rounds import Work, measure

LOOP = "uvloop"
_LAYERS = (
    (LOOP, r"uvloop"),
    ("uvicorn, httptools", r"uvicorn|httptools"),
    ("starlette, fastapi", r"starlette|fastapi"),
    ("router.api", r"router/api/"),
    ("router.engine, core", r"router/(engine|core)/"),
    ("router.proxy", r"router/proxy/"),
    ("router.wire", r"router/wire/"),
    ("router.telemetry", r"router/telemetry/|prometheus_client"),
    ("aiohttp, yarl", r"aiohttp|yarl|multidict|propcache|frozenlist|aiosignal|aiohappyeyeballs"),
    ("asyncio", r"asyncio/|_asyncio"),
    ("json", r"json/|json\."),
    ("logging", r"logging/"),
)
_PATTERNS = tuple((layer, re.compile(pattern)) for layer, pattern in _LAYERS)
_OTHER = "other standard library"
_COLLECTOR = "garbage collector"
_KERNEL = "kernel"
_WARM_UP_SEC = 0.5
_DUMP_SEC = 30.0
_TOP = 25

Function = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Profile:
    """Attributes:
    shares: of the CPU time, by layer, largest first.
    functions: the most expensive ones: share, calls per unit, name.
    """

    shares: Mapping[str, float]
    functions: tuple[tuple[float, float, str], ...]


def profiled(cores: Cores, folder: Path, work: Work, seconds: float) -> Profile:
    """A profile of the router while it does this work."""
    out = folder / "profile"
    with router(cores, folder, program=("-m", "benchmarks.profiled_router", str(out))) as contender:
        measure(contender, work, _WARM_UP_SEC)
        _next_stage(contender)
        collected = _cpu_of(contender, work, seconds)
        _next_stage(contender)
        observed = _cpu_of(contender, work, seconds)
        _next_stage(contender)
        _wait_for(out)
    collector = float(out.with_name(f"{out.name}.collector").read_text(encoding="ascii"))
    known = {_COLLECTOR: collector / collected.seconds, _KERNEL: collected.kernel / collected.seconds}
    return _read(out, observed, known)


@dataclass(frozen=True, slots=True)
class _Spent:
    """CPU time, the kernel's part of it, and what was done with it."""

    seconds: float
    kernel: float
    units: float


def _cpu_of(contender: Contender, work: Work, seconds: float) -> _Spent:
    before, kernel = contender.cpu_seconds(), contender.kernel_seconds()
    sample = measure(contender, work, seconds)
    spent = contender.cpu_seconds() - before
    return _Spent(spent, contender.kernel_seconds() - kernel, spent / sample.cpu)


def _read(out: Path, spent: _Spent, known: Mapping[str, float]) -> Profile:
    """Args: known: shares of the CPU time that were measured otherwise; the profile tells about the rest."""
    stats = cast("dict[Function, Any]", pstats.Stats(str(out)).stats)  # type: ignore[attr-defined]
    seconds: defaultdict[str, float] = defaultdict(float)
    for function, (_, _, own, _, callers) in stats.items():
        if (layer := _layer(function)) is not None:
            seconds[layer] += own
            continue
        for caller, counted in callers.items():
            seconds[_layer(caller) or _OTHER] += counted[2]
    seconds[LOOP] += max(0.0, spent.seconds - spent.kernel - sum(seconds.values()))
    total = sum(seconds.values()) / (1 - sum(known.values()))
    shares = {layer: of_layer / total for layer, of_layer in seconds.items()} | dict(known)
    costly = sorted(stats.items(), key=lambda item: -item[1][2])[:_TOP]
    return Profile(
        shares=dict(sorted(shares.items(), key=itemgetter(1), reverse=True)),
        functions=tuple((entry[2] / total, entry[1] / spent.units, _name(function)) for function, entry in costly),
    )


def _layer(function: Function) -> str | None:
    """None for a function in C that belongs to its callers."""
    file, _, name = function
    built_in = file == "~"
    found = next((layer for layer, pattern in _PATTERNS if pattern.search(name if built_in else file)), None)
    return found if built_in or found else _OTHER


def _name(function: Function) -> str:
    file, line, name = function
    return name if file == "~" else f"{'/'.join(Path(file).parts[-3:])}:{line} {name}"


def _next_stage(contender: Contender) -> None:
    if contender.process is not None:
        contender.process.send_signal(signal.SIGUSR1)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + _DUMP_SEC
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(f"the profile was not written to {path}")
        time.sleep(0.05)
