"""Which children are ours, on disk, so that a router started after a crash reaps what the last one left behind.

The guard ends the children of a router that dies. This is the second line of defence: for the day both were killed,
and for systems without a guard. Each router has a file of its own, `children-<pid>.json`, so that two routers with one
state directory do not disturb each other.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from router.backends.guard import kill_marked
from router.backends.process_group import kill_group
from router.backends.process_stat import process_stat
from router.worker import Errand, Post

_log = logging.getLogger(__name__)

_PATTERN: Final = "children-*.json"
_WAIT_SEC = 1.0


def start_mark(pid: int) -> str | None:
    """What tells this process from an earlier or later one with the same number; None when there is no such process.

    On Linux the boot's id and the start in clock ticks since boot, which no change of the wall clock can move;
    elsewhere the creation time.
    """
    stat = process_stat(pid)
    if stat is None or sys.platform != "linux":
        return None if stat is None else stat.started
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    return f"{boot}:{stat.started}"


@dataclass(frozen=True, slots=True)
class _Record:
    """What one router has written down: itself, the mark that its children's environments bear, and their starts."""

    router: int
    started: str
    mark: str
    children: Mapping[int, str]


class PidFile:
    """The children of this router. A disk that fails is told to the log and otherwise ignored.

    Args:
        mark: of this router, see `guard`.
        post: to a thread that may wait for a disk.
    """

    def __init__(self, state_dir: Path, mark: str, post: Post) -> None:
        self._folder = state_dir
        self._path = state_dir / f"children-{os.getpid()}.json"
        self._mark = mark
        self._saving = Errand(self._save, post)
        self._children: dict[int, str] = {}

    def add(self, pid: int) -> None:
        mark = start_mark(pid)
        if mark is not None:
            self._children[pid] = mark
            self._saving.ask()

    def remove(self, pid: int) -> None:
        if self._children.pop(pid, None) is not None:
            self._saving.ask()

    def reap_leftovers(self) -> tuple[int, ...]:
        """Kill what dead routers with this state directory left running; returns the process ids.

        Blocks for up to a second; call it in a thread. A process is killed only if its number and its start are those
        that were written down, or if it bears the mark of that router (Linux), and only if that router is gone.
        """
        reaped: list[int] = []
        for path in sorted(self._folder.glob(_PATTERN)):
            if path == self._path and self._children:
                continue
            record = _read(path)
            if record is None or _alive(record.router, record.started):
                continue
            leaders = [pid for pid, started in record.children.items() if _alive(pid, started)]
            for pid in leaders:
                kill_group(pid)
            # Those whose leader has ended are found by nothing else.
            strays = kill_marked(record.mark) if record.mark else []
            leftovers = list(dict.fromkeys((*leaders, *strays)))
            for pid in leftovers:
                _log.warning("killed process %d, left behind by a router that died (%s)", pid, path.name)
            _await_end(leftovers)
            reaped += leftovers
            _unlink(path)
        return tuple(reaped)

    def _save(self) -> None:
        children = dict(self._children)
        if not children:
            _unlink(self._path)
            return
        router = os.getpid()
        document = {
            "router": {"pid": router, "started": start_mark(router), "mark": self._mark},
            "children": [{"pid": pid, "started": mark} for pid, mark in children.items()],
        }
        draft = self._path.with_suffix(".tmp")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps(document), encoding="utf-8")
            draft.replace(self._path)
        except OSError as error:
            _log.warning("cannot write %s: %s", self._path, error.strerror or error)


def _await_end(pids: list[int]) -> None:
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    psutil.wait_procs(processes, timeout=_WAIT_SEC)


def _alive(pid: int, mark: str) -> bool:
    return start_mark(pid) == mark


def _read(path: Path) -> _Record | None:
    """What is recorded; None when the file cannot be used (it is left for a person to look at)."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        router = document["router"]
        children = {int(child["pid"]): str(child["started"]) for child in document["children"]}
        return _Record(int(router["pid"]), str(router["started"]), str(router.get("mark", "")), children)
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("ignoring %s, which cannot be read: %r", path, error)
        return None


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot remove %s: %s", path, error.strerror or error)
