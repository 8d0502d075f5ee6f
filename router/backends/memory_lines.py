"""What a child says, and what of it is about memory: its buffer lines, and its projection before a load.

Lines of `llama.cpp` (`-lv 4`): `load_tensors: CPU_Mapped model buffer size = 34.73 MiB`, and the like for `KV`, `RS`,
`compute`, `output` and `LoRA`. With `--log-jsonl` lines `{"type":"fit_memory_breakdown",…}` come before the load, one
for each measurement that llama.cpp's fit makes; with `--fit off` there is none (`common/fit.cpp`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_MIB = 1024**2
_LINE = re.compile(
    r":\s+(?P<place>\S+)\s+(?P<kind>model|KV|RS|compute|output|LoRA) buffer size\s*=\s*(?P<mib>[\d.]+) MiB"
)
_KINDS = {"model": "weights", "LoRA": "weights", "KV": "cache", "RS": "cache", "compute": "compute", "output": "output"}
_LOG = '{"type":"log"'
# Said at the default verbosity once the context is made (`common_init_result`): whatever the load takes is allocated.
_ALLOCATED = "llama threadpool init, n_threads"
_SHORTENED = re.compile(r"context size reduced from (\d+) to (\d+)")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_BREAKDOWN = '"fit_memory_breakdown"'


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer.

    Attributes:
        place: the backend's name for it, e.g. `CUDA0` or `CPU_Mapped`.
        kind: as in `estimate.Part`.
    """

    place: str
    kind: str
    bytes: int

    @property
    def on_host(self) -> bool:
        """Whether it lies in RAM: plain, mapped, rearranged, or pinned for a GPU."""
        return self.place.startswith(("CPU", "Host", "BLAS", "AMX")) or self.place.endswith("_Host")


def buffers(lines: Iterable[str]) -> tuple[Buffer, ...]:
    """All buffers that these lines tell of, in their order."""
    found = (_LINE.search(line) for line in lines)
    return tuple(Buffer(m["place"], _KINDS[m["kind"]], round(float(m["mib"]) * _MIB)) for m in found if m)


def plain(line: str) -> str:
    """A line of `--log-jsonl` as llama.cpp writes it without that flag; every other line as it is.

    `0.00.007.480 I srv    load_model: …`: minutes, seconds, milliseconds, microseconds, level.
    """
    if not line.startswith(_LOG):
        return line
    try:
        found = json.loads(line)
        micros, level, text = int(found["time"]), str(found["level"]), str(found["msg"])
    except (ValueError, KeyError, TypeError):
        return line
    millis, seconds = micros // 1000, micros // 1_000_000
    stamp = f"{seconds // 60}.{seconds % 60:02}.{millis % 1000:03}.{micros % 1000:03}"
    return f"{stamp} {level[:1].upper()} {text.rstrip()}"


def projection(line: str) -> tuple[int, int] | None:
    """(bytes on GPUs, bytes in RAM) that llama.cpp projects, from its JSON line; None for every other line.

    Whole MiB: each figure is rounded down by up to 1 MiB per row.
    """
    if _BREAKDOWN not in line:
        return None
    try:
        rows = json.loads(line)["data"]["rows"]
        amounts = [(row["kind"] == "device", _amount(row)) for row in rows]
    except (ValueError, KeyError, TypeError):
        return None
    return sum(size for gpu, size in amounts if gpu), sum(size for gpu, size in amounts if not gpu)


@dataclass(slots=True)
class LoadLines:
    """What a child's lines tell of its load, as it goes on.

    Attributes:
        projected: (bytes on GPUs, bytes in RAM) that it has announced before the load: uncut, the largest of what it
            has measured. None if it has not.
        allocated: it has all the memory that the load takes.
    """

    projected: tuple[int, int] | None = None
    allocated: bool = False
    _context: tuple[int, int] | None = None
    _layers: tuple[int, int] | None = None

    def read(self, line: str) -> None:
        """The next line, as the child wrote it."""
        if self.allocated:
            return
        announced = projection(line)
        if announced is not None:
            self.projected = max(self.projected or announced, announced, key=sum)
        elif _ALLOCATED in line:
            self.allocated = True
        elif found := _SHORTENED.search(line):
            self._context = (int(found[1]), int(found[2]))
        elif found := _OFFLOADED.search(line):
            self._layers = (int(found[1]), int(found[2]))

    @property
    def cut(self) -> str:
        """What llama.cpp's fit has cut, in words; empty if nothing is known to be."""
        parts = []
        if self._context is not None:
            before, now = self._context
            parts.append(f"the context was shortened from {before:,} to {now:,} tokens")
        if self._layers is not None and self._layers[0] < self._layers[1]:
            on_gpu, layers = self._layers
            parts.append(f"{on_gpu} of {layers} layers are on the GPU, the others in RAM")
        return "; ".join(parts)


def _amount(row: dict[str, Any]) -> int:
    return int(row["self"]) * _MIB
