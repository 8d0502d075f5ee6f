"""Routers that run as in a container, where that is allowed."""

from __future__ import annotations

import subprocess
import sys

from tests.support.router import ROOT

_PROGRAM = str(ROOT / "tests" / "fakes" / "contained_router.py")


def contained(*how: str) -> tuple[tuple[str, ...], str]:
    """The program to hand to `router`, by the words of `tests.fakes.contained_router`, and why it cannot be run."""
    command = [sys.executable, _PROGRAM, *how, "--try"]
    tried = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return (_PROGRAM, *how), tried.stderr.strip() if tried.returncode else ""
