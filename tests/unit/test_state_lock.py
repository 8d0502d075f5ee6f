"""One router per state directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from router.errors import ConfigError
from router.state_lock import FILE, state_lock

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no flock")


def test_the_second_is_refused_and_told_who_is_there(tmp_path: Path) -> None:
    with state_lock(tmp_path, "config.json"):
        with pytest.raises(ConfigError) as refused, state_lock(tmp_path, "config.json"):
            pass
        assert str(refused.value) == (
            f"config.json: 1 problem\n  - system.state_dir: another llama-router (process {os.getpid()}) uses this "
            f"directory: {tmp_path} (stop it first, or give each router a state_dir of its own)"
        )
    with state_lock(tmp_path, "config.json"):
        assert (tmp_path / FILE).read_text() == f"{os.getpid()}\n"


def test_a_holder_that_is_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, pathlib, router.state_lock as s\n"
        "with s.state_lock(pathlib.Path(sys.argv[1]), ''): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=str(holder.pid)), state_lock(tmp_path, ""):
            pass
        holder.kill()
        holder.wait()
        with state_lock(tmp_path, ""):
            pass


def test_children_do_not_inherit_it(tmp_path: Path) -> None:
    with state_lock(tmp_path, ""):
        sleeper = subprocess.Popen(["sleep", "1000"], close_fds=False)
    try:
        with state_lock(tmp_path, ""):
            pass
    finally:
        sleeper.kill()
        sleeper.wait()


def test_one_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(ConfigError, match=r"system.state_dir: cannot be locked: .*router.lock: Is a directory"):
        state_lock(tmp_path, "config.json").__enter__()
