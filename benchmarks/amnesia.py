"""`python -m benchmarks.amnesia`: what a swap costs a conversation, with real llama.cpp under a running router.

A chat of about 1,200 tokens is asked on a model whose prompts are slow to read. Then another model takes the only
place in memory, the first one is loaded again, and the chat goes on. The exit code is 1 when a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import httpx

from benchmarks.contenders import free_port, started, wait_until
from benchmarks.figures import HEADINGS, Figure, Goal, table
from benchmarks.machine import ROOT
from benchmarks.pinned import environment
from scripts.make_demo_models import ModelSpec, write_model

_PATIENCE_SEC = 300.0
_TOKENS = 1200  # one a character: the made-up models spell
_ANSWER = 8
_MB = 1e6
# 907 MB in f16, and 49 KB of KV a token.
_SLOW = ModelSpec(name="slow", layers=16, embd=1536, ff=4608, heads=12, kv_heads=6, ctx=4096)
_FLAGS = ("-c", "4096", "--cache-ram", "64")
_SAVED = re.compile(r"slow: \d+ conversation\(s\) saved in (\d+) ms")
_WORK = "chat of 1,200 tokens, swapped out and back"


@dataclass(frozen=True, slots=True)
class Swap:
    """One conversation over a swap; seconds, but for `size` (bytes).

    Attributes:
        cold, restored: until the whole answer of a loaded model, before the swap and after it.
        save: what the swap took longer for the sake of the conversation.
        cached: share of the prompt that had not to be read again.
    """

    cold: float
    restored: float
    save: float
    size: int
    cached: float


@contextmanager
def running(folder: Path, threads: int) -> Iterator[httpx.Client]:
    """A router with room for one of two models."""
    port = free_port()
    flags = [*_FLAGS, "-t", str(threads)]
    shutil.rmtree(folder / "state", ignore_errors=True)  # what an earlier run kept would be found again
    slow = folder / "slow.gguf"
    config = {
        "api": {"host": "127.0.0.1", "port": port},
        "system": {"base_port": free_port(), "state_dir": "state", "max_concurrent_models": 1},
        "models": {
            "slow": {"model_path": str(slow if slow.exists() else write_model(slow, _SLOW)), "flags": flags},
            "other": {"model_path": str(write_model(folder / "other.gguf", ModelSpec(name="other"))), "flags": flags},
        },
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    env = {key: value for key, value in environment().items() if key not in ("API_KEY", "CONFIG_PATH")}
    with (
        (folder / "router.log").open("wb") as log,
        started([sys.executable, str(ROOT / "run.py")], cwd=folder, env=env, output=log) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_SEC) as client,
    ):
        wait_until(lambda: _listens(client), f"the router (see {log.name})", process)
        yield client


def measure(client: httpx.Client, folder: Path, number: int) -> Swap:
    """Each conversation has a text of its own."""
    messages = [{"role": "user", "content": _text(number)}]
    _load(client, "slow")
    cold, said = _ask(client, "slow", messages)
    answer = said["choices"][0]["message"]["content"]
    _load(client, "other")
    kept = (folder / "state" / "conversations").rglob("*.kv")
    size = max((file.stat() for file in kept), key=lambda found: found.st_mtime_ns).st_size
    _load(client, "slow")
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Go on."}]
    restored, said = _ask(client, "slow", messages)
    saved = _SAVED.findall((folder / "router.log").read_text(encoding="utf-8"))[-1]
    timings = said["timings"]
    cached = timings["cache_n"] / (timings["cache_n"] + timings["prompt_n"])
    return Swap(cold, restored, int(saved) / 1000, size, cached)


def figures(swaps: Sequence[Swap]) -> list[Figure]:
    speedup = median(swap.cold / swap.restored for swap in swaps)
    per_60_mb = (
        median(1000 * swap.save * 60 * _MB / swap.size for swap in swaps) if all(s.size for s in swaps) else None
    )
    return [
        Figure(_WORK, "answer sooner", "cold", speedup, Goal("at least", 10.0)),
        Figure(_WORK, "prompt found", "-", 100 * median(s.cached for s in swaps), Goal("at least", 90.0), " %"),
        Figure(_WORK, "save per 60 MB", "-", per_60_mb, Goal("at most", 100.0), " ms"),
    ]


def _text(number: int) -> str:
    words = [f"{(number + 1) * (place + 7) ** 3 % 99991:05d}" for place in range(_TOKENS // 6)]
    return " ".join(words)


def _ask(client: httpx.Client, model: str, messages: Sequence[dict[str, str]]) -> tuple[float, dict[str, Any]]:
    asked = {"model": model, "messages": messages, "max_tokens": _ANSWER, "temperature": 0, "ignore_eos": True}
    began = time.perf_counter()
    response = client.post("/v1/chat/completions", json=asked)
    seconds = time.perf_counter() - began
    response.raise_for_status()
    return seconds, response.json()


def _load(client: httpx.Client, model: str) -> None:
    client.post("/v1/models/load", json={"model": model, "wait": True}).raise_for_status()


def _listens(client: httpx.Client) -> bool:
    try:
        return client.get("/health").is_success
    except httpx.TransportError:
        return False


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.amnesia", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of llama.cpp")
    parser.add_argument("--folder", type=Path, help="where the model is kept for the next time; else it is temporary")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        with running(folder, options.threads) as client:
            swaps = [measure(client, folder, number) for number in range(options.rounds)]
    for swap in swaps:
        print(f"cold {swap.cold:.2f} s, restored {swap.restored:.2f} s, saved {swap.size / _MB:.1f} MB in "
              f"{1000 * swap.save:.0f} ms")  # fmt: skip
    measured = figures(swaps)
    print(table(HEADINGS, [figure.cells() for figure in measured]))
    return 1 if any(figure.missed for figure in measured) else 0


if __name__ == "__main__":
    sys.exit(main())
