"""What a model is booked for after one load, against the high-water mark that five requests leave the next time.

Through the running router: it loads the model, answers the script and is stopped; it is started again, and what it then
expects is compared with the kernel's own high-water mark of the child once the script is over.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.contenders import Contender, router
from benchmarks.load import Target
from benchmarks.machine import Cores
from benchmarks.memory_models import Model, write
from benchmarks.script import MODEL
from router.core.estimate import project, read_run, read_shape
from router.devices.gguf import read_header
from router.devices.host import repacked_types
from router.learned import FILE

LIMIT = 0.02
HEADINGS = ("model", "flags", "formula", "learned", "high-water mark", "error", "verdict")
_MIB = 1024**2
_OBSERVED_SEC = 4.5  # two observations of the router
_FLAGS = ("-t", "2", "--cache-ram", "64")
# Prompts of so many words, one after the other.
_SCRIPT = (20, 160, 320, 100, 240)


@dataclass(frozen=True, slots=True)
class Learned:
    """One model loaded twice, in bytes of RAM."""

    model: Model
    flags: str
    formula: int
    learned: int
    peak: int

    @property
    def error(self) -> float:
        return self.learned / self.peak - 1

    @property
    def holds(self) -> bool:
        return abs(self.error) <= LIMIT

    def cells(self) -> tuple[str, ...]:
        name = f"{self.model.architecture} {self.model.type}, {self.model.layers} x {self.model.embd}"
        sizes = [f"{size / _MIB:.0f}" for size in (self.formula, self.learned, self.peak)]
        return (name, f"`{self.flags}`", *sizes, f"{self.error:+.1%}", "holds" if self.holds else "MISSED")


def measure(command: Sequence[str], model: Model, flags: str, models: Path) -> Learned:
    """Two runs of the router."""
    path = write(model, models)
    header = read_header(path)
    run = read_run(flags.split(), slots=1)
    expected = project([header.tensors], read_shape(header.metadata, header.tensors), run, repacked=repacked_types())
    with tempfile.TemporaryDirectory() as scratch:
        _run(command, path, flags.split(), Path(scratch))
        known = json.loads((Path(scratch) / "state" / FILE).read_text(encoding="utf-8"))
        peak = _run(command, path, flags.split(), Path(scratch))
    return Learned(model, flags, expected.host.total, next(iter(known.values()))["host"], peak)


def _run(command: Sequence[str], path: Path, flags: Sequence[str], folder: Path) -> int:
    """The child's high-water mark after the script."""
    with router(Cores(None, None), folder, llama=command, model=path, flags=[*_FLAGS, *flags]) as running:
        for words in _SCRIPT:
            _ask(running.documents, words, embed="--embedding" in flags)
        time.sleep(_OBSERVED_SEC)
        return _peak(running)


def _ask(target: Target, words: int, *, embed: bool) -> None:
    prompt = " ".join(["ab"] * (words // 3 if embed else words))  # which must fit into one batch
    body: dict[str, Any] = {"model": MODEL}
    body |= {"input": prompt} if embed else {"prompt": prompt, "max_tokens": 8, "ignore_eos": True}
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=300)
    try:
        headers = {"content-type": "application/json", "authorization": f"Bearer {target.key}"}
        connection.request("POST", "/v1/embeddings" if embed else "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {said[:300]!r}")
    finally:
        connection.close()


def _peak(running: Contender) -> int:
    """The largest high-water mark among the router's children: llama-server's."""
    if running.process is None:
        raise RuntimeError("the router has no process")
    return max(_high_water(child) for child in running.process.children(recursive=True))


def _high_water(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8").splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
