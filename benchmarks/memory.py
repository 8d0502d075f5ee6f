"""`python -m benchmarks.memory`: what the router expects a model to take, against what llama.cpp says it took.

A matrix of architectures, sizes, contexts, slots and cache types; each model is loaded by a real llama-server
(LLAMA_SERVER_PATH, or the one on PATH; else the embedded llama.cpp, which is another build), whose buffer lines are
compared with the estimate from the file alone. Then some are loaded twice through the router: see `memory_learned`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks import machine
from benchmarks.contenders import free_port
from benchmarks.figures import table
from benchmarks.memory_learned import HEADINGS, Learned, measure
from benchmarks.memory_models import Model, write
from router.backends.capabilities import EMBEDDED
from router.backends.memory_lines import Buffer, buffers
from router.core.estimate import Part, project, read_run, read_shape
from router.devices.gguf import read_header
from router.devices.host import repacked_types

PAGE = machine.ROOT / "docs" / "memory.md"
_BEGIN, _END = "<!-- measured -->", "<!-- /measured -->"
_MIB = 1024**2
_PATIENCE_SEC = 60.0
_READY = "new slot"
# A figure printed with two decimals may be off by half of the last one.
_ROUNDING = 0.006 * _MIB
_HEADINGS = ("model", "flags", "weights", "cache", "compute", "sum", "llama.cpp", "outside weights", "verdict")
_LIMITS = {"weights": 0.01, "cache": 0.01, "compute": 0.25}
_SUM_LIMIT, _MEDIAN_LIMIT = 0.10, 0.03
_OUTSIDE, _OUTSIDE_SHARE = 0.30, 0.5
_LEARNED = (0, 6, 18, 23, 26)  # of the matrix

_LLAMA = Model("llama", layers=6, embd=1024, ff=2816, heads=16, kv_heads=4, vocab=8000)
_LLAMA_Q4 = Model("llama", layers=8, embd=1024, ff=2816, heads=16, kv_heads=4, vocab=32000, type="Q4_0")
_LLAMA_Q4K = Model("llama", layers=4, embd=1024, ff=4096, heads=16, kv_heads=16, vocab=16000, type="Q4_K")
_QWEN2 = Model("qwen2", layers=6, embd=896, ff=4864, heads=14, kv_heads=2, vocab=32000, tied=True, type="Q8_0")
_QWEN3 = Model("qwen3", layers=6, embd=1024, ff=3072, heads=16, kv_heads=8, head=128, vocab=32000, type="Q8_0")
_GEMMA2 = Model("gemma2", layers=6, embd=768, ff=3072, heads=8, kv_heads=4, window=1024, vocab=16000, type="Q8_0")
_GEMMA3 = Model("gemma3", layers=13, embd=640, ff=2048, heads=4, kv_heads=1, head=256, window=512, vocab=48000,
                tied=True, type="Q8_0")  # fmt: skip
_MIXTRAL = Model("mixtral", layers=4, embd=768, ff=1024, heads=12, kv_heads=4, experts=8, type="Q8_0")
_QWEN3MOE = Model("qwen3moe", layers=4, embd=768, ff=384, heads=12, kv_heads=4, experts=32, experts_used=8, type="Q4_K")
_GPT_OSS = Model("gpt-oss", layers=6, embd=768, ff=768, heads=12, kv_heads=4, window=128, experts=8, experts_used=4,
                 vocab=16000, type="Q8_0")  # fmt: skip
_PHI3 = Model("phi3", layers=6, embd=768, ff=2048, heads=12, kv_heads=12, vocab=16000, type="Q8_0")
_QWEN35 = Model("qwen35", layers=8, embd=768, ff=2048, heads=6, kv_heads=2, head=128, vocab=16000, type="Q8_0")
_BERT = Model("bert", layers=6, embd=384, ff=1536, heads=12, kv_heads=12, vocab=30522, ctx=2048)
_DEEPSEEK = Model("deepseek2", layers=4, embd=768, ff=512, heads=12, kv_heads=12, experts=16, rank=512, type="Q8_0")
_MAMBA = Model("mamba", layers=8, embd=768, vocab=16000, type="Q8_0")

MATRIX: tuple[tuple[Model, str], ...] = (
    (_LLAMA, "-c 4096 -np 1"),
    (_LLAMA, "-c 32768 -np 4"),
    (_LLAMA, "-c 16384 -np 2 -ctk q8_0 -ctv q8_0"),
    (_LLAMA, "-c 8192 -np 1 -fa off"),
    (_LLAMA, "-c 8192"),
    (_LLAMA, "-np 4"),
    (_LLAMA_Q4, "-c 8192 -np 1"),
    (_LLAMA_Q4, "-c 32768 -np 8 -ctk q4_0 -ctv q4_0"),
    (_LLAMA_Q4, "-c 16384 -np 2 -kvu -ub 1024 -b 1024"),
    (_LLAMA_Q4, "-c 4096 -np 1 -lm none"),
    (_LLAMA_Q4K, "-c 8192 -np 1"),
    (_LLAMA_Q4K, "-c 8192 -np 4 -ctk q5_1 -ctv iq4_nl -ub 256"),
    (_QWEN2, "-c 32768 -np 2"),
    (_QWEN2, "-c 16384 -np 1 -ctk q8_0 -fa off"),
    (_QWEN3, "-c 16384 -np 4"),
    (_QWEN3, "-c 8192 -np 1 -ctk q8_0 -ctv q4_0"),
    (_GEMMA2, "-c 8192 -np 1"),
    (_GEMMA2, "-c 16384 -np 4 -ctk q8_0 -ctv q8_0"),
    (_GEMMA3, "-c 8192 -np 1"),
    (_GEMMA3, "-c 32768 -np 4 -ub 2048"),
    (_GEMMA3, "-c 16384 -np 2 --swa-full"),
    (_GEMMA3, "-c 32768"),
    (_GEMMA3, "-np 3"),
    (_MIXTRAL, "-c 16384 -np 1"),
    (_MIXTRAL, "-c 32768 -np 4 -ctk q8_0 -ctv q8_0"),
    (_QWEN3MOE, "-c 32768 -np 2"),
    (_GPT_OSS, "-c 16384 -np 1"),
    (_GPT_OSS, "-c 32768 -np 4 -ub 1024"),
    (_PHI3, "-c 16384 -np 2"),
    (_PHI3, "-c 8192 -np 1 -fa off"),
    (_QWEN35, "-c 16384 -np 1"),
    (_QWEN35, "-c 32768 -np 4"),
    (_BERT, "--embedding -c 2048 -np 1"),
    (_BERT, "--embedding -c 8192 -np 4 -b 2048 -ub 2048"),
    (_DEEPSEEK, "-c 16384 -np 1"),
    (_DEEPSEEK, "-c 32768 -np 4"),
    (_MAMBA, "-c 4096 -np 8"),
    (_MAMBA, "-c 16384 -np 32 -ub 1024"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One load. Errors are shares of llama.cpp's own figure."""

    model: Model
    flags: str
    expected: Part
    reported: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.reported.values())

    @property
    def outside(self) -> float:
        """The share of its memory that is not weights."""
        return 1 - self.reported["weights"] / self.total

    def error(self, kind: str) -> float:
        return _error(getattr(self.expected, kind), self.reported[kind])

    @property
    def sum_error(self) -> float:
        return _error(self.expected.buffers, self.total)

    @property
    def holds(self) -> bool:
        return abs(self.sum_error) <= _SUM_LIMIT and all(abs(self.error(k)) <= most for k, most in _LIMITS.items())

    def cells(self) -> tuple[str, ...]:
        kinds = [f"{self.reported[kind] / _MIB:.1f} ({self.error(kind):+.1%})" for kind in _LIMITS]
        name = f"{self.model.architecture} {self.model.type}, {self.model.layers} x {self.model.embd}"
        return (name, f"`{self.flags}`", *kinds, f"{self.sum_error:+.2%}", f"{self.total / _MIB:.1f}",
                f"{self.outside:.0%}", "holds" if self.holds else "MISSED")  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(argv)
    binary = os.environ.get("LLAMA_SERVER_PATH") or shutil.which("llama-server")
    command = EMBEDDED if binary is None else (binary,)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(options.models or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_measure(command, model, flags, folder) for model, flags in MATRIX]
        learned = [measure(command, *MATRIX[index], folder) for index in (() if options.cold else _LEARNED)]
    text = _report(rows, learned, command)
    print(text)
    if options.write:
        _write(text)
    return 0 if all(_verdicts(rows, learned).values()) else 1


def _measure(command: Sequence[str], model: Model, flags: str, folder: Path) -> Row:
    path = write(model, folder)
    header = read_header(path)
    run = read_run(flags.split(), slots=0)
    shape = read_shape(header.metadata, header.tensors)
    expected = project([header.tensors], shape, run, repacked=repacked_types())
    return Row(model, flags, expected.host, _sums(_load(command, path, flags)))


def _load(command: Sequence[str], path: Path, flags: str) -> tuple[Buffer, ...]:
    """What llama-server says it took. Raises RuntimeError with its last lines when it does not load."""
    argv = [*command, "-m", str(path), *flags.split(), "--port", str(free_port()), "-t", "1", "-lv", "4"]
    with tempfile.TemporaryFile("w+") as log, _running(argv, log.fileno()) as process:
        deadline = time.monotonic() + _PATIENCE_SEC
        while time.monotonic() < deadline:
            log.seek(0)
            lines = log.read().splitlines()
            if any(_READY in line for line in lines):
                return buffers(lines)
            if process.poll() is not None:
                break
            time.sleep(0.02)
    raise RuntimeError(f"{' '.join(argv)} did not load:\n" + "\n".join(lines[-10:]))


@contextlib.contextmanager
def _running(argv: Sequence[str], output: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(argv, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _sums(found: Sequence[Buffer]) -> dict[str, int]:
    return {kind: sum(b.bytes for b in found if b.kind == kind) for kind in (*_LIMITS, "output")}


def _error(expected: int, reported: int) -> float:
    """What it is off by, as a share; nothing where both are nothing."""
    off = expected - reported
    return 0.0 if abs(off) <= _ROUNDING else off / reported if reported else float("inf")


def _verdicts(rows: Sequence[Row], learned: Sequence[Learned]) -> dict[str, bool]:
    errors = [abs(row.sum_error) for row in rows]
    heavy = sum(row.outside >= _OUTSIDE for row in rows)
    return {
        f"weights and cache within 1 %, compute within 25 %, sum within 10 % ({len(rows)} loads)":
            all(row.holds for row in rows),
        f"median error of the sums at most 3 % (is {median(errors):.2%}, worst {max(errors):.2%})":
            median(errors) <= _MEDIAN_LIMIT,
        f"at least half of the matrix has 30 % or more outside the weights (is {heavy} of {len(rows)})":
            heavy >= _OUTSIDE_SHARE * len(rows),
    } | (
        {f"after one load within 2 % of the high-water mark ({len(learned)} models)": all(row.holds for row in learned)}
        if learned
        else {}
    )  # fmt: skip


def _report(rows: Sequence[Row], learned: Sequence[Learned], command: Sequence[str]) -> str:
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=False, timeout=30)
    version = next((line for line in (said.stdout + said.stderr).splitlines() if "version" in line), "unknown")
    where = f"Commit {machine.commit()}. {machine.description()}; llama-server {version.strip()}."
    what = "Figures in MiB as llama.cpp reports them; in brackets, what the estimate from the file alone is off by."
    parts = [f"{where} {what}", table(_HEADINGS, [row.cells() for row in rows])]
    if learned:
        parts += ["Loaded twice through the router, the same five requests each time; MiB of RSS:"]
        parts += [table(HEADINGS, [row.cells() for row in learned])]
    verdicts = [f"- {text}: {'yes' if holds else 'NO'}" for text, holds in _verdicts(rows, learned).items()]
    return "\n\n".join([*parts, "\n".join(verdicts)])


def _write(measured: str) -> None:
    before, begin, rest = PAGE.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{PAGE} has lost its marks {_BEGIN} and {_END}")
    PAGE.write_text(f"{before}{begin}\n\n{measured}\n\n{end}{after}", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in docs/memory.md")
    parser.add_argument("--cold", action="store_true", help="leave out what is learned through the router: minutes")
    parser.add_argument("--models", metavar="DIR", help="keep the models there, for the next time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
