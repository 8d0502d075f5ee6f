#!/usr/bin/env python3
"""Ask pip-audit whether the locked requirements have known vulnerabilities.

Exits with 1 if one has. Where pip-audit is missing or its data cannot be reached in good time, it says so and exits
with 0: a check that needs the network must not stop work without one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILES = ("requirements.txt", "requirements-dev.txt")  # pip-audit takes no second version of a package
TIMEOUT_SEC = 20.0
# Vulnerabilities that do not concern us: their id, and why not.
IGNORED: Mapping[str, str] = {}


def main(program: Sequence[str], *, timeout: float = TIMEOUT_SEC) -> int:
    """Run `program`, which is pip-audit, and print what it found; returns the exit code."""
    options = [f"--requirement={ROOT / name}" for name in FILES]
    options += [f"--ignore-vuln={found}" for found in IGNORED]
    command = [*program, "--disable-pip", "--require-hashes", "--progress-spinner=off", "--format=json", *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
        dependencies = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return _not_done(f"no answer within {timeout:g} s")
    except OSError as error:
        return _not_done(f"{program[0]}: {error.strerror}")
    except (ValueError, KeyError, TypeError):
        return _not_done((done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1])
    return _report(dependencies)


def _report(dependencies: Sequence[Mapping[str, Any]]) -> int:
    vulnerable = [one for one in dependencies if one.get("vulns")]
    for one in vulnerable:
        for found in one["vulns"]:
            fixed = ", ".join(found.get("fix_versions", ())) or "no version"
            print(f"{one['name']} {one['version']}: {found['id']}, mended in {fixed}")
    skipped = [one["name"] for one in dependencies if "skip_reason" in one]
    if vulnerable:
        print(
            "Raise the floors in pyproject.toml and run scripts/lock.sh; what does not concern us belongs in IGNORED."
        )
        return 1
    if len(skipped) == len(dependencies):
        return _not_done("nothing is known of any of them")
    rest = f", but for {', '.join(skipped)}, of which nothing is known" if skipped else ""
    print(f"No known vulnerabilities in {len(dependencies) - len(skipped)} requirements{rest}.")
    return 0


def _not_done(why: str) -> int:
    print(f"Not audited for known vulnerabilities: {why}.")
    return 0


if __name__ == "__main__":
    sys.exit(main((str(Path(sys.executable).with_name("pip-audit")),)))
