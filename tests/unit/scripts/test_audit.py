"""Known vulnerabilities stop the check; a network that is not there does not."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.audit import FILES, IGNORED, ROOT, main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for pip-audit")

GOOD: dict[str, Any] = {"name": "good", "version": "1", "vulns": []}
BAD: dict[str, Any] = {
    "name": "bad",
    "version": "1",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"], "aliases": ["CVE-1"], "description": "…"}],
}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "not found"}


def audit(folder: Path, script: str, *, timeout: float = 10.0) -> int:
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return main((str(program),), timeout=timeout)


def says(*dependencies: dict[str, Any], code: int = 0) -> str:
    return f"cat <<'END'\n{json.dumps({'dependencies': dependencies, 'fixes': []})}\nEND\nexit {code}"


def test_a_known_vulnerability_stops_the_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, says(GOOD, BAD, UNKNOWN, code=1)) == 1
    assert "bad 1: PYSEC-1, mended in 2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (says(GOOD, GOOD), "No known vulnerabilities in 2 requirements."),
        (says(GOOD, UNKNOWN), "in 1 requirements, but for unknown, of which nothing is known."),
        (says(UNKNOWN), "Not audited for known vulnerabilities: nothing is known of any of them."),
        (
            "echo first >&2; echo no route >&2; exit 1",
            "Not audited for known vulnerabilities: no route.",
        ),
        ("exit 2", "Not audited for known vulnerabilities: pip-audit ended with 2."),
        ("echo null", "Not audited for known vulnerabilities: pip-audit ended with 0."),
    ],
)
def test_everything_else_is_told_and_goes_on(
    script: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert audit(tmp_path, script) == 0
    assert capsys.readouterr().out.endswith(f"{told}\n")


def test_a_silent_network_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(tmp_path, "exec tail -f /dev/null", timeout=0.2) == 0
    assert "no answer within 0.2 s" in capsys.readouterr().out


def test_a_missing_program_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main((str(tmp_path / "none"),)) == 0
    assert "No such file" in capsys.readouterr().out


def test_every_locked_file_is_looked_at() -> None:
    others = {"requirements-openai2.txt"}  # an old SDK to test against
    assert {*FILES, *others} == {path.name for path in ROOT.glob("requirements*.txt")}


def test_what_is_ignored_says_why() -> None:
    assert all(reason.strip() for reason in IGNORED.values())
