"""Why a llama-server ended, in a sentence, from its exit code and its last words."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from router.backends.oom import OomEvidence
from router.core.types import DeviceKind, Exhaustion

_MAX_QUOTE = 300
_MIB = 1024**2
# The bind failure that sends a child to another port.
PORT_IN_USE = "couldn't bind HTTP server socket"
_NO_MEMORY = re.compile(
    r"cudaMalloc failed|unable to allocate|failed to allocate|out of memory|bad_alloc", re.IGNORECASE
)
# Buffers in RAM that are pinned for a GPU are called `CUDA_Host`.
_OF_GPU = re.compile(
    r"cudaMalloc failed|(CUDA|HIP|ROCm|Vulkan|SYCL|MUSA|CANN)\d* (buffer|error)|on device \d|Device memory"
)
# The most telling first. llama-server says the cause early and then what follows from it, so the first line counts.
_MARKERS: tuple[re.Pattern[str], ...] = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        re.escape(PORT_IN_USE),
        _NO_MEMORY.pattern,
        r"model is corrupted or incomplete|invalid magic|unknown model architecture|error loading model",
        r"\b(CUDA|HIP|Vulkan|Metal) error|GGML_ASSERT|terminate called",
        r"\berror: |error while (handling|loading)|invalid argument|unknown argument|failed to open",
    )
)
_ERRORISH = re.compile(r"error|fail|fatal|abort|exception|cannot|could ?n.t|unable|invalid", re.IGNORECASE)
# What our own proof of identity makes it say: a wrong key on purpose.
_OUR_PROOF = "unauthorized: Invalid API Key"
# `0.02.540.482 E srv  load_model: ` : time since start, level.
_STAMP = re.compile(r"^\d+\.\d+\.\d+\.\d+\s+[A-Z]\s+")
_SIGKILL = 9


def telling_line(lines: Sequence[str]) -> str:
    """The line that says most about a failure; empty when none does."""
    said = [line for line in lines if line.strip() and _OUR_PROOF not in line]
    for marker in _MARKERS:
        for line in said:
            if marker.search(line):
                return _quote(line)
    return next((_quote(line) for line in reversed(said) if _ERRORISH.search(line)), "")


def was_killed(code: int) -> bool:
    """Whether a SIGKILL ended it."""
    return _signal(code) == _SIGKILL


def exit_reason(
    code: int,
    lines: Sequence[str],
    *,
    asked: bool = False,
    name: str = "llama-server",
    oom: OomEvidence = OomEvidence.UNKNOWN,
) -> str:
    """The sentence.

    Args:
        code: as in `subprocess`: negative for a signal. A shell in between says 128 + signal.
        lines: what the child wrote last.
        asked: the router ended it.
        oom: what is known of the sender of a SIGKILL.
    """
    if asked:
        return f"{name} was stopped by the router ({_describe(code)})"
    how = _describe(code) + (oom.value if was_killed(code) else "")
    words = telling_line(lines)
    if code > 0 and not words and lines:
        words = _quote(lines[-1])
    if code == 0:
        return f"{name} {how}, though nobody had asked it to end" + (f": {words}" if words else "")
    if words:
        return f"{name} {how}: {words}"
    return f"{name} {how}" if lines else f"{name} {how} and said nothing"


def exhausted(code: int, lines: Sequence[str], *, oom: OomEvidence = OomEvidence.UNKNOWN) -> Exhaustion | None:
    """The memory that a child ran out of, if that is why it ended: by its own words, or by the kernel's way with it."""
    if code == 0:
        return None
    words = [line for line in lines if _NO_MEMORY.search(line)]
    if words:
        kind = DeviceKind.GPU if any(_OF_GPU.search(line) for line in words) else DeviceKind.HOST
        return Exhaustion(kind, max(map(_asked, words)))
    return Exhaustion(DeviceKind.HOST) if was_killed(code) and oom is not OomEvidence.NOT else None


def _asked(line: str) -> int:
    """`failed to allocate CUDA0 buffer of size 123`, `allocating 1.50 MiB on device 0: cudaMalloc failed` -> bytes."""
    if size := re.search(r"of size (\d{1,18})\b", line):
        return int(size[1])
    size = re.search(r"allocating (\d{1,12}(?:\.\d+)?) MiB", line)
    return round(float(size[1]) * _MIB) if size else 0


def _describe(code: int) -> str:
    try:
        name = signal.Signals(_signal(code))
    except ValueError:
        return f"exited with code {code}"
    return f"was killed by {name.name}"


def _signal(code: int) -> int:
    return -code if code < 0 else code - 128


def _quote(line: str) -> str:
    text = _STAMP.sub("", line.strip())
    return text if len(text) <= _MAX_QUOTE else text[:_MAX_QUOTE] + "…"
