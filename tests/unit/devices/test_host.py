"""Host RAM: the machine's figures, a container's limits, and the memory of process trees."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from router.devices.host import HostMemory, Memory, process_tree

MIB = 1024**2
KIB = 1024


@pytest.fixture
def machine(tmp_path: Path) -> HostMemory:
    """16,000 MiB, of which 9,000 are called available; 3,000 of these are mapped files."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    _write_meminfo(tmp_path / "proc", total=16_000, available=9_000, cached=6_000, mapped=3_000)
    return HostMemory(proc=tmp_path / "proc", cgroup=tmp_path / "cgroup")


def _write_meminfo(proc: Path, *, total: int, available: int, cached: int, mapped: int, shared: int = 0) -> None:
    figures = {
        "MemTotal": total,
        "MemAvailable": available,
        "Active(file)": cached // 2,
        "Inactive(file)": cached - cached // 2,
        "Mapped": mapped,
        "Shmem": shared,
        "Mlocked": 0,
    }
    lines = [f"{name}:{size * KIB:>12} kB" for name, size in figures.items()]
    (proc / "meminfo").write_text("\n".join([*lines, "HugePages_Total:       0", ""]))


def _write_v2(host: HostMemory, path: str, *, limit: str, usage: int, cached: int = 0, mapped: int = 0) -> None:
    folder = host.cgroup / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{usage * MIB}\n")
    (folder / "memory.stat").write_text(
        f"anon 1\nactive_file 0\ninactive_file {cached * MIB}\nfile_mapped {mapped * MIB}\nshmem 0\nunevictable 0\n"
    )


def _write_v1(host: HostMemory, path: str, *, limit: int, usage: int, cached: int = 0) -> None:
    folder = host.cgroup / "memory" / path
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{usage * MIB}\n")
    (folder / "memory.stat").write_text(f"inactive_file 7\ntotal_inactive_file {cached * MIB}\n")


def test_mapped_weights_count_as_used(machine: HostMemory) -> None:
    assert machine.memory() == Memory(total=16_000 * MIB, available=6_000 * MIB)


def test_mapped_shared_memory_is_not_taken_off_twice(machine: HostMemory) -> None:
    _write_meminfo(machine.proc, total=16_000, available=9_000, cached=6_000, mapped=3_000, shared=2_500)
    assert machine.memory().available == 8_500 * MIB


def test_a_reading_adds_up(machine: HostMemory) -> None:
    reading = machine.read()
    assert (reading.used, reading.free) == (10_000 * MIB, 6_000 * MIB)
    assert reading.used + reading.free == reading.total


def test_without_proc_psutil_is_asked(tmp_path: Path) -> None:
    memory = HostMemory(proc=tmp_path, cgroup=tmp_path).memory()
    assert 0 < memory.available <= memory.total


def test_the_limit_of_a_container_counts(machine: HostMemory) -> None:
    (machine.proc / "self" / "cgroup").write_text("0::/\n")
    _write_v2(machine, ".", limit=str(4_000 * MIB), usage=1_000, cached=300, mapped=100)
    assert machine.memory() == Memory(total=4_000 * MIB, available=3_200 * MIB)


def test_the_tightest_level_counts(machine: HostMemory) -> None:
    (machine.proc / "self" / "cgroup").write_text("0::/a/b\n")
    _write_v2(machine, "a/b", limit="max", usage=10)
    _write_v2(machine, "a", limit=str(2_000 * MIB), usage=1_500)
    _write_v2(machine, ".", limit=str(8_000 * MIB), usage=7_900)
    assert machine.memory() == Memory(total=2_000 * MIB, available=100 * MIB)


def test_a_container_that_sees_only_the_root_of_its_mount(machine: HostMemory) -> None:
    (machine.proc / "self" / "cgroup").write_text("0::/system.slice/docker-1234.scope\n")
    _write_v2(machine, ".", limit=str(4_000 * MIB), usage=0)
    assert machine.memory().total == 4_000 * MIB


def test_cgroup_version_1(machine: HostMemory) -> None:
    (machine.proc / "self" / "cgroup").write_text("9:name=systemd:/\n4:cpu,memory:/docker/x\n0::/\n")
    _write_v1(machine, "docker/x", limit=4_000 * MIB, usage=3_000, cached=500)
    _write_v1(machine, ".", limit=2**63 - 4096, usage=9_000)
    assert machine.memory() == Memory(total=4_000 * MIB, available=1_500 * MIB)


def test_a_container_over_its_limit_has_nothing_free(machine: HostMemory) -> None:
    (machine.proc / "self" / "cgroup").write_text("0::/\n")
    _write_v2(machine, ".", limit=str(1_000 * MIB), usage=1_200)
    assert machine.read().free == 0


@pytest.mark.parametrize(
    ("total", "budget", "capacity"),
    [(16_000, None, 15_200), (4_000, None, 3_488), (300, None, 0), (16_000, 2_000, 2_000), (16_000, 90_000, 16_000)],
)
def test_capacity(machine: HostMemory, total: int, budget: int | None, capacity: int) -> None:
    _write_meminfo(machine.proc, total=total, available=total, cached=0, mapped=0)
    device = machine.device(None if budget is None else budget * MIB)
    assert (device.id, device.index, device.total) == ("host", None, total * MIB)
    assert device.capacity == capacity * MIB


CHILD = """
import subprocess, sys
inner = subprocess.Popen([sys.executable, "-c", "ballast = b'x' * (48 << 20); print('up', flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
inner.stdout.readline()
print(inner.pid, flush=True)
input()
inner.communicate(b"\\n")
"""


@pytest.fixture
def family() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process and the pid of its child, which holds 48 MiB."""
    with subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
        process.communicate(b"\n", timeout=20)


def test_a_tree_holds_what_its_children_hold(family: tuple[subprocess.Popen[bytes], int]) -> None:
    parent, child = family
    tree = process_tree(parent.pid)
    assert tree is not None
    assert tree.pids == {parent.pid, child}
    assert 48 * MIB < tree.rss < 256 * MIB


def test_a_process_that_is_gone_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait(timeout=20)
    tree = process_tree(process.pid)
    assert tree is not None
    assert (tree.pids, tree.rss) == (frozenset(), 0)


@pytest.mark.skipif(not hasattr(os, "waitid"), reason="needs waitid")
def test_a_zombie_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is not reaped
        tree = process_tree(process.pid)
    assert tree is not None
    assert tree.rss == 0
