"""What a child says, and what of it is about memory: its buffer lines, and its projection before a load.

Lines of `llama.cpp` (`-lv 4`): `load_tensors: CPU_Mapped model buffer size = 34.73 MiB`, and the like for `KV`, `RS`,
`compute`, `output` and `LoRA`. With `--log-jsonl` one line `{"type":"fit_memory_breakdown",…}` comes before the load.
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


def _amount(row: dict[str, Any]) -> int:
    return int(row["self"]) * _MIB
