"""A router that systemd has started: what it hears from it."""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.puppets import configuration, configure, puppets, reload
from tests.support.sd_notify import Manager

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no AF_UNIX datagrams")


def test_it_hears_of_start_life_reload_and_end(tmp_path: Path) -> None:
    manager = Manager(str(tmp_path / "notify"))
    env = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"}
    with manager, puppets(tmp_path, {"m": ()}, env=env) as running:

        def hear(what: str) -> list[str]:
            """The next message that begins with this; before it only says that it lives."""
            while (said := manager.hear())[0] != what:
                assert said[0] == "WATCHDOG=1"
            return said

        assert hear("READY=1")[1] == "STATUS=serving 1 model(s)"
        hear("WATCHDOG=1")
        document = configuration(running)
        document["models"]["n"] = document["models"]["m"]
        assert reload(running, document).status_code == 200
        assert re.fullmatch(r"MONOTONIC_USEC=\d+", hear("RELOADING=1")[1])
        assert hear("READY=1")[1] == "STATUS=serving 2 model(s)"
        configure(running, "{")
        running.process.send_signal(signal.SIGHUP)
        hear("RELOADING=1")
        assert hear("READY=1")[1] == "STATUS=serving 2 model(s)", "the old one holds"
        assert running.chat("m").status_code == 200
        child = psutil.Process(running.status("m")["pid"])
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC"} & set(child.environ())
        for _ in range(12):  # the kernel holds eleven unheard, and what comes then is lost
            hear("WATCHDOG=1")
        running.process.send_signal(signal.SIGTERM)
        assert hear("STOPPING=1")[1] == "EXTEND_TIMEOUT_USEC=35000000"
        assert running.process.wait(timeout=10) == 0
