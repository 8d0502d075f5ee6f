"""Runs a program on one core: `python -m benchmarks.pinned CORE PROGRAM [ARGUMENT…]`; CORE `-` = wherever it likes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from benchmarks.machine import ROOT, pin


def pinned(core: int | None, *command: str) -> list[str]:
    """The command line that runs `command` on this core."""
    return [sys.executable, "-m", "benchmarks.pinned", "-" if core is None else str(core), *command]


def environment() -> dict[str, str]:
    """Ours, so that a child finds this package wherever it runs."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def main(arguments: Sequence[str]) -> None:
    core, *command = arguments
    pin(None if core == "-" else int(core))
    os.execvp(command[0], command)  # noqa: S606  no shell is what is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
