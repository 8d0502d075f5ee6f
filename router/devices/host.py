"""Host RAM: how much there is for models, how much is free, and what a process tree holds.

Inside a container the cgroup's limit counts, not the machine's RAM. On Linux, weights that a child has mapped are page
cache: the kernel calls them available, although dropping them would make the child read its weights from disk again.
They are counted as used here, which also agrees with the RSS of that child.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from router.core.types import HOST, Device, DeviceKind, DeviceReading

_MIB = 1024**2
MARGIN_SHARE = 0.05
MARGIN_BYTES = 512 * _MIB


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of RAM that processes here may have in all, and that they could still take."""

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class ProcessTree:
    """A process and its descendants; `rss` counts a page that two of them share twice."""

    pids: frozenset[int]
    rss: int


@dataclass(frozen=True, slots=True)
class HostMemory:
    """The RAM of this machine or container. Blocking calls of a few milliseconds.

    Attributes:
        proc, cgroup: where these file systems are mounted.
    """

    proc: Path = Path("/proc")
    cgroup: Path = Path("/sys/fs/cgroup")

    def memory(self) -> Memory:
        """RAM now, within the tightest cgroup limit. Raises OSError when it cannot be read."""
        machine = self._machine()
        limits = self._cgroup_limits(machine.total)
        return Memory(
            total=min([machine.total, *(limit.total for limit in limits)]),
            available=max(0, min([machine.available, *(limit.available for limit in limits)])),
        )

    def device(self, budget: int | None) -> Device:
        """The host as a device; `budget` (bytes) replaces the safety margin, but cannot exceed what there is."""
        total = self.memory().total
        usable = total - max(round(total * MARGIN_SHARE), MARGIN_BYTES)
        capacity = min(budget, total) if budget is not None else max(0, usable)
        return Device(id=HOST, kind=DeviceKind.HOST, index=None, name="RAM", total=total, capacity=capacity)

    def read(self) -> DeviceReading:
        now = self.memory()
        return DeviceReading(id=HOST, total=now.total, used=now.total - now.available, free=now.available)

    def _machine(self) -> Memory:
        try:
            figures = _figures(self.proc / "meminfo", scale=1024)
            cached = figures["Active(file)"] + figures["Inactive(file)"]
            in_use = _mapped(cached, figures["Mapped"], figures["Shmem"], figures["Mlocked"])
            return Memory(total=figures["MemTotal"], available=figures["MemAvailable"] - in_use)
        except (OSError, KeyError):  # not Linux, or a kernel that says less
            found = psutil.virtual_memory()
            return Memory(total=found.total, available=found.available)

    def _cgroup_limits(self, machine_total: int) -> list[Memory]:
        """Every memory limit from our own cgroup up to the root, that is below the machine's RAM."""
        found = []
        for folder, names in self._cgroup_folders():
            try:
                limit = int((folder / names.limit).read_text())
                usage = int((folder / names.usage).read_text())
                figures = _figures(folder / "memory.stat")
            except (OSError, ValueError):  # no such level from in here, or the limit is "max"
                continue
            if limit < machine_total:
                found.append(Memory(total=limit, available=limit - usage + names.droppable(figures)))
        return found

    def _cgroup_folders(self) -> list[tuple[Path, _CgroupNames]]:
        """Folders of our memory cgroup and its ancestors. Inside a container only the mount's root may exist."""
        try:
            lines = (self.proc / "self" / "cgroup").read_text().splitlines()
        except OSError:
            return []
        folders = []
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controllers == "":
                root, names = self.cgroup, _V2
            elif "memory" in controllers.split(","):
                root, names = self.cgroup / "memory", _V1
            else:
                continue
            inside = Path(path.lstrip("/"))
            folders += [(root / level, names) for level in (inside, *inside.parents)]
        return folders


@dataclass(frozen=True, slots=True)
class _CgroupNames:
    """What the files and figures of one cgroup version are called."""

    limit: str
    usage: str
    prefix: str
    mapped: str

    def droppable(self, figures: dict[str, int]) -> int:
        """Bytes of page cache that nobody has mapped."""

        def of(name: str) -> int:
            return figures.get(self.prefix + name, 0)

        cached = of("active_file") + of("inactive_file")
        return cached - _mapped(cached, of(self.mapped), of("shmem"), of("unevictable"))


_V2 = _CgroupNames(limit="memory.max", usage="memory.current", prefix="", mapped="file_mapped")
_V1 = _CgroupNames(limit="memory.limit_in_bytes", usage="memory.usage_in_bytes", prefix="total_", mapped="mapped_file")


def _mapped(cached: int, mapped: int, shmem: int, locked: int) -> int:
    """Bytes of page cache in use as mapped files.

    `mapped` also counts mapped shared memory and locked pages, which are not in the page cache's lists; how much of it
    they are is not told, so all of both is taken off: rather too little is called used than too much.
    """
    return min(cached, max(0, mapped - shmem - locked))


def _figures(path: Path, scale: int = 1) -> dict[str, int]:
    """`name value` lines, with or without a colon and a unit."""
    fields = (line.split() for line in path.read_text().splitlines())
    return {field[0].rstrip(":"): int(field[1]) * scale for field in fields if len(field) > 1 and field[1].isdigit()}


def process_tree(pid: int) -> ProcessTree | None:
    """The process and its descendants with their memory. A process that is gone holds nothing; None = not allowed."""
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return ProcessTree(frozenset(), 0)
    except psutil.AccessDenied:
        return None
    rss = [_rss(process) for process in processes]
    if rss[0] is None:
        return None
    return ProcessTree(frozenset(process.pid for process in processes), sum(size or 0 for size in rss))


def _rss(process: psutil.Process) -> int | None:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:  # ended meanwhile, or a zombie: it holds nothing any more
        return 0
    except psutil.AccessDenied:
        return None


def peak_rss(pid: int, proc: Path = Path("/proc")) -> int | None:
    """The most RAM that a process and its descendants ever held, each at its own time; None where no count is kept.

    Source: `VmHWM` of `/proc/<pid>/status`. Those that have ended meanwhile are not counted.
    """
    tree = process_tree(pid)
    peaks = [_peak(proc / str(member) / "status") for member in (tree.pids if tree is not None else ())]
    found = [peak for peak in peaks if peak is not None]
    return sum(found) if found else None


def _peak(status: Path) -> int | None:
    try:
        return _figures(status, scale=1024).get("VmHWM")
    except OSError:  # it has ended, or this is not Linux
        return None


def repacked_types(proc: Path = Path("/proc")) -> frozenset[str]:
    """ggml's types of weights that llama.cpp rearranges for this machine's CPU, which takes a copy of them.

    Source: llama.cpp b11434, `ggml/src/ggml-cpu/repack.cpp`, `ggml_repack_get_optimal_repack_type`.
    """
    try:
        words = frozenset((proc / "cpuinfo").read_text(encoding="utf-8", errors="replace").split())
    except OSError:
        return frozenset()
    if {"i8mm", "asimddp"} & words:
        return frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL"})
    if "avx2" not in words:
        return frozenset()
    return frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"} | ({"Q2_K"} if "avx512f" in words else set()))
