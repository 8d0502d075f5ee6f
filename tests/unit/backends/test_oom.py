"""What the kernel's counts and its log say of a SIGKILL."""

from __future__ import annotations

import os
from pathlib import Path
from time import monotonic

import pytest

from router.backends.oom import OomEvidence, OomWitness

PID = 4242


class Kernel:
    """Files as the kernel shows them.

    Args:
        listing: what `/proc/<pid>/cgroup` says; empty = not to be seen.
        counter: the file with the cgroup's count, below the cgroup mount; empty = none.
    """

    def __init__(self, folder: Path, listing: str, counter: str) -> None:
        self.proc, self.cgroup, self.log = folder / "proc", folder / "cgroup", folder / "kmsg"
        (self.proc / str(PID)).mkdir(parents=True)
        (self.proc / str(PID) / "cgroup").write_text(listing)
        self.counter = self.cgroup / counter if counter else None
        self.kills(machine=7, cgroup=2)
        self.witness = OomWitness(PID, proc=self.proc, cgroup=self.cgroup, log=self.log)

    def kills(self, *, machine: int | None = None, cgroup: int | None = None) -> None:
        """Set the counts."""
        if machine is not None:
            (self.proc / "vmstat").write_text(f"nr_free_pages 1\noom_kill {machine}\npgfault 9\n")
        if cgroup is not None and self.counter is not None:
            self.counter.parent.mkdir(parents=True, exist_ok=True)
            self.counter.write_text(f"low 0\noom {cgroup}\noom_kill {cgroup}\noom_group_kill 0\n")

    def says(self, pid: int, *, at: float) -> None:
        self.log.write_text(f"3,1,{round(at * 1e6)},-;Out of memory: Killed process {pid} (llama-server) anon-rss:1kB")


V2 = ("0::/user.slice/it\n", "user.slice/it/memory.events")
IN_CONTAINER = ("0::/docker/abc\n", "memory.events")
V1 = ("5:cpu,memory:/it\n1:name=systemd:/\n0::/\n", "memory/it/memory.oom_control")
NONE = ("", "")


@pytest.mark.parametrize(("listing", "counter"), [V2, IN_CONTAINER, V1], ids=["v2", "in a container", "v1"])
def test_its_cgroup_counts(tmp_path: Path, listing: str, counter: str) -> None:
    kernel = Kernel(tmp_path, listing, counter)
    kernel.kills(machine=8, cgroup=3)
    assert kernel.witness.testify() is OomEvidence.COUNTED_IN_CGROUP


@pytest.mark.parametrize(("listing", "counter"), [V2, NONE], ids=["another cgroup", "no cgroup"])
def test_somebody_was_killed_for_memory(tmp_path: Path, listing: str, counter: str) -> None:
    kernel = Kernel(tmp_path, listing, counter)
    kernel.kills(machine=8)
    assert kernel.witness.testify() is OomEvidence.COUNTED


def test_nobody_was_killed_for_memory(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, *V2)
    kernel.says(PID, at=monotonic())  # of another machine's log, mounted by mistake
    assert kernel.witness.testify() is OomEvidence.NOT


def test_nothing_can_be_seen(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    nowhere = tmp_path / "gone"
    assert OomWitness(PID, proc=nowhere, cgroup=nowhere, log=nowhere).testify() is OomEvidence.UNKNOWN


def test_the_log_names_it(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path, *NONE)
    kernel.kills(machine=8)
    kernel.says(PID, at=monotonic())
    assert kernel.witness.testify() is OomEvidence.LOGGED


@pytest.mark.parametrize(("pid", "ago"), [(PID + 1, 0.0), (PID, 3600.0), (PID * 10, 0.0)])
def test_the_log_names_others(tmp_path: Path, pid: int, ago: float) -> None:
    kernel = Kernel(tmp_path, *NONE)
    kernel.kills(machine=8)
    kernel.says(pid, at=monotonic() - ago)
    assert kernel.witness.testify() is OomEvidence.COUNTED


def test_the_machine_at_hand() -> None:
    assert OomWitness(os.getpid()).testify() in {OomEvidence.NOT, OomEvidence.COUNTED, OomEvidence.UNKNOWN}
