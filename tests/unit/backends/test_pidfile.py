"""Reaping what a dead router left behind, and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.backends.guard import MARK as VARIABLE
from router.backends.pidfile import PidFile, start_mark
from tests.fakes.posting import StuckDisk, at_once
from tests.support.observing import is_alive
from tests.support.waiting import wait_until

Sleeper = subprocess.Popen[bytes]
MARK = "1-of-this-router"
DEAD = "2-of-a-dead-router"


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process in a group of its own, as a child of a router is."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    process.kill()
    process.wait()


def gone_process() -> tuple[int, str]:
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as process:
        mark = start_mark(process.pid)
    assert mark is not None
    return process.pid, mark


def write(
    folder: Path, router: tuple[int, Any], *children: tuple[int, Any], name: str = "children-1.json", **more: Any
) -> Path:
    path = folder / name
    path.write_text(
        json.dumps(
            {
                "router": {"pid": router[0], "started": router[1], **more},
                "children": [{"pid": pid, "started": mark} for pid, mark in children],
            }
        )
    )
    return path


def test_a_mark_tells_processes_apart(sleeper: Sleeper) -> None:
    assert start_mark(sleeper.pid) == start_mark(sleeper.pid)
    assert start_mark(sleeper.pid) != start_mark(os.getpid())
    assert start_mark(gone_process()[0]) is None


def test_leftovers_of_a_dead_router_are_killed(tmp_path: Path, sleeper: Sleeper) -> None:
    path = write(tmp_path, gone_process(), (sleeper.pid, start_mark(sleeper.pid)))
    assert PidFile(tmp_path, MARK, at_once).reap_leftovers() == (sleeper.pid,)
    assert sleeper.poll() is not None
    assert not path.exists()


def test_a_router_that_lives_keeps_its_children(tmp_path: Path, sleeper: Sleeper) -> None:
    path = write(tmp_path, (os.getpid(), start_mark(os.getpid())), (sleeper.pid, start_mark(sleeper.pid)))
    assert PidFile(tmp_path, MARK, at_once).reap_leftovers() == ()
    assert sleeper.poll() is None
    assert path.exists()


def test_a_number_that_was_used_again_is_not_killed(tmp_path: Path, sleeper: Sleeper) -> None:
    path = write(tmp_path, gone_process(), (sleeper.pid, "another start"))
    assert PidFile(tmp_path, MARK, at_once).reap_leftovers() == ()
    assert sleeper.poll() is None
    assert not path.exists()


def test_a_router_number_that_was_used_again_counts_as_dead(tmp_path: Path, sleeper: Sleeper) -> None:
    write(tmp_path, (os.getpid(), "another start"), (sleeper.pid, start_mark(sleeper.pid)),
          name=f"children-{os.getpid()}.json")  # fmt: skip
    assert PidFile(tmp_path, MARK, at_once).reap_leftovers() == (sleeper.pid,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"router": 1, "children": []}', '{"router": {"pid": "x"}}'])
def test_a_damaged_file_is_left_alone(tmp_path: Path, text: str) -> None:
    path = tmp_path / "children-1.json"
    path.write_text(text)
    assert PidFile(tmp_path, MARK, at_once).reap_leftovers() == ()
    assert path.exists()


def test_the_file_says_who_lives(tmp_path: Path, sleeper: Sleeper) -> None:
    pid_file = PidFile(tmp_path / "state", MARK, at_once)
    pid_file.add(sleeper.pid)
    (path,) = (tmp_path / "state").iterdir()
    assert json.loads(path.read_text()) == {
        "router": {"pid": os.getpid(), "started": start_mark(os.getpid()), "mark": MARK},
        "children": [{"pid": sleeper.pid, "started": start_mark(sleeper.pid)}],
    }
    assert pid_file.reap_leftovers() == ()
    pid_file.remove(sleeper.pid)
    assert list((tmp_path / "state").iterdir()) == []


def test_a_disk_that_fails_is_no_reason_to_stop(tmp_path: Path, sleeper: Sleeper) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    pid_file = PidFile(tmp_path / "state", MARK, at_once)
    pid_file.add(sleeper.pid)
    pid_file.remove(sleeper.pid)
    assert pid_file.reap_leftovers() == ()


def test_a_disk_that_hangs_gets_the_last_state_once_it_goes_on(tmp_path: Path, sleeper: Sleeper) -> None:
    disk = StuckDisk()
    pid_file = PidFile(tmp_path, MARK, disk.post)
    for _ in range(100):
        pid_file.add(sleeper.pid)
        pid_file.remove(sleeper.pid)
    pid_file.add(sleeper.pid)
    assert list(tmp_path.iterdir()) == []
    assert len(disk.calls) == 1
    disk.release()
    (path,) = tmp_path.iterdir()
    assert [child["pid"] for child in json.loads(path.read_text())["children"]] == [sleeper.pid]
    pid_file.remove(sleeper.pid)
    disk.release()
    assert list(tmp_path.iterdir()) == []


LEAVES = """
import subprocess, sys
for apart in (False, True):
    print(subprocess.Popen(["sleep", "1000"], start_new_session=apart).pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="marks are looked for in /proc")
@pytest.mark.parametrize("whose", [DEAD, MARK], ids=["of a dead router", "of another"])
def test_what_a_leader_that_died_has_left_is_found_by_its_mark(tmp_path: Path, whose: str) -> None:
    """One that stayed in its group, and one with a session of its own."""
    command, env = [sys.executable, "-c", LEAVES], {**os.environ, VARIABLE: f"{whose}.7"}
    with subprocess.Popen(
        command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as leader:
        assert leader.stdout is not None
        left = [int(leader.stdout.readline()) for _ in range(2)]
        started = start_mark(leader.pid)
    try:
        path = write(tmp_path, gone_process(), (leader.pid, started), mark=DEAD)
        found = PidFile(tmp_path, MARK, at_once).reap_leftovers()
        assert sorted(found) == (sorted(left) if whose == DEAD else [])
        assert not path.exists()
        if whose == DEAD:
            wait_until(lambda: not any(map(is_alive, left)), what="their end")
        else:
            assert all(map(is_alive, left))
    finally:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
