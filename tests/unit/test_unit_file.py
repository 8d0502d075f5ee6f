"""The unit file of docs/operations.md: what it must say, and that systemd understands it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from router.config import SystemConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
SECTIONS = ["Unit", "Service", "Install"]


@pytest.fixture
def text() -> str:
    found = re.search(
        r"^```ini\n(# /etc/systemd/system/llama-router.service\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


@pytest.fixture
def service(text: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True, delimiters="=")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(text)
    assert parser.sections() == SECTIONS
    return parser["Service"]


def test_it_says_what_the_router_relies_on(service: configparser.SectionProxy) -> None:
    assert service["Type"] == "notify"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["KillMode"] == "mixed", "SIGTERM to the models would cut their streams"
    assert service["OOMPolicy"] == "continue"
    assert int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > SystemConfig().drain_timeout_sec + 5


def test_it_does_not_hide_the_gpus(service: configparser.SectionProxy) -> None:
    assert not {"PrivateDevices", "ProtectClock", "DevicePolicy", "DeviceAllow"} & set(service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not here")
def test_systemd_understands_it(text: str, tmp_path: Path) -> None:
    """With a program and a user that there are."""
    here = re.sub(r"^ExecStart=.*$", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
    here = re.sub(r"^(User|Group|SupplementaryGroups)=.*\n", "", here, flags=re.MULTILINE)
    unit = tmp_path / "llama-router.service"
    unit.write_text(here)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
