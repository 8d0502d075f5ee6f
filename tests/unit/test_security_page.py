"""SECURITY.md names tests that there are, and what it says of the lock files is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
LOCKED = sorted(ROOT.glob("requirements*.txt"))


def test_every_test_that_is_named_is_there() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) > 30
    assert [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).is_file()
        or not re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)
    ] == []


def test_every_promise_names_one() -> None:
    rows = re.findall(r"^\| (.+) \| (.+) \|$", PAGE.partition("| promise |")[2], re.MULTILINE)
    assert len(rows) > 15
    assert [promise for promise, shown in rows if "::test_" not in shown] == []


@pytest.mark.parametrize("file", LOCKED, ids=lambda file: file.name)
def test_every_locked_requirement_has_a_hash(file: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    requirements = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert len(requirements) > 5
    assert [line for line in requirements if "==" not in line or "--hash=sha256:" not in line] == []


def test_starlette_is_past_its_known_holes() -> None:
    (locked,) = re.findall(r"^starlette==(\S+)", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert Version(locked) >= Version("1.0.1")
