"""Which llama.cpp there is, and what it can do: asked once, not assumed, because builds differ."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from router.backends.environment import llama_environment
from router.backends.exit_reason import exit_reason
from router.backends.output_pipe import OutputPipe
from router.backends.process_group import kill_group
from router.backends.spawn import OsProcess
from router.engine.ports import LaunchError

EMBEDDED = (sys.executable, "-m", "router.backends.embedded")
PROGRAM = "llama-server"
_PROBE_SEC = 20.0
_LAST_WORDS_SEC = 0.5
_MAX_HELP_BYTES = 1024 * 1024
_FLAG = re.compile(r"\s*(--?[A-Za-z][\w-]*)(,?)")

Kind = Literal["binary", "embedded"]

# What the router uses where it is there; an old build lacks some of it.
_NOTABLE = ("--parallel", "--metrics", "--slots", "--cache-ram", "--slot-save-path", "--log-jsonl", "--fit")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A llama-server that was found.

    Attributes:
        command: what to run, to be followed by flags.
        kind: a binary, or the embedded llama.cpp.
        version: in its own words, e.g. `6123 (abc1234)`; `unknown` when it does not say.
        flags: every flag its `--help` names, short and long, with their dashes.
    """

    command: tuple[str, ...]
    kind: Kind
    version: str
    flags: frozenset[str]

    def supports(self, flag: str) -> bool:
        return flag in self.flags

    @property
    def name(self) -> str:
        """For sentences about its processes."""
        return PROGRAM if self.kind == "binary" else "the embedded llama.cpp"

    def __str__(self) -> str:
        return self.told(f" at {self.command[0]}" if self.kind == "binary" else "")

    def told(self, where: str = "") -> str:
        """What it is and can do; `where` it is is not for everybody."""
        missing = [flag for flag in _NOTABLE if not self.supports(flag)]
        lacks = f"; without {', '.join(missing)}" if missing else ""
        return f"{self.name}{where}, version {self.version}, {len(self.flags)} flags{lacks}"


class Finder:
    """Finds llama.cpp: the configured path, else `llama-server` on PATH, else the embedded one.

    The answer is kept; a failure is not, so that a path that has been put right works without a restart.
    """

    def __init__(self, configured: Path | None = None) -> None:
        self._configured = configured
        self._known: Capabilities | None = None
        self._asking = asyncio.Lock()

    @property
    def known(self) -> Capabilities | None:
        """The answer, if it has been asked for; never waits."""
        return self._known

    async def find(self) -> Capabilities:
        """Raises LaunchError naming the path when the configured program is missing or does not run."""
        async with self._asking:
            if self._known is None:
                self._known = await ask(*find_command(self._configured))
            return self._known


def find_command(configured: Path | None) -> tuple[tuple[str, ...], Kind]:
    """What to run, without running it. Raises LaunchError when the configured path cannot be run."""
    if configured is not None:
        path = configured.expanduser().absolute()
        advice = "set LLAMA_SERVER_PATH or system.llama_server_path to a llama-server, or leave it out"
        if not path.is_file():
            raise LaunchError(f"llama-server not found: {path} is {_what(path)}; {advice}")
        if not os.access(path, os.X_OK):
            raise LaunchError(f"llama-server cannot be run: {path} is not executable; try chmod +x, or {advice}")
        return (str(path),), "binary"
    found = shutil.which(PROGRAM)
    return ((str(Path(found).absolute()),), "binary") if found else (EMBEDDED, "embedded")


def build_stamp(configured: Path | None) -> str:
    """Tells one llama.cpp from another without running it: its path, size and time, or the embedded one's version."""
    try:
        command, kind = find_command(configured)
        if kind == "embedded":
            return f"xllamacpp {metadata.version('xllamacpp')}"
        status = Path(command[0]).stat()
    except (LaunchError, OSError, metadata.PackageNotFoundError):
        return "unknown"
    return f"{command[0]} {status.st_size} {status.st_mtime_ns}"


async def ask(command: tuple[str, ...], kind: Kind) -> Capabilities:
    """Run `--version` and `--help`. Raises LaunchError when neither works."""
    version_code, version = await _output((*command, "--version"), kind)
    help_code, usage = await _output((*command, "--help"), kind)
    if version_code != 0 and help_code != 0:
        reason = exit_reason(version_code, version.splitlines(), name=" ".join(command))
        raise LaunchError(f"llama-server does not run: {reason}")
    return Capabilities(command, kind, parse_version(version), parse_flags(usage))


def parse_version(text: str) -> str:
    """The version in the output of `--version`, which may begin with lines about the GPUs."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    said = next((line for line in lines if line.lower().startswith("version")), lines[0] if lines else "unknown")
    return re.sub(r"^version:?\s*", "", said, flags=re.IGNORECASE) or "unknown"


def parse_flags(usage: str) -> frozenset[str]:
    """The flags that `--help` names: each entry begins its line with them, separated by commas."""
    found: set[str] = set()
    for line in usage.splitlines():
        position, more = 0, ","
        while more and (match := _FLAG.match(line, position)):
            flag, more = match.groups()
            found.add(flag)
            position = match.end()
    return frozenset(found)


def _what(path: Path) -> str:
    if path.is_dir():
        return "a directory"
    return "not a regular file" if path.exists() else "not there"


async def _output(argv: Sequence[str], kind: Kind) -> tuple[int, str]:
    """Exit code and output. Its whole group is gone afterwards, whatever it was up to."""
    said = bytearray()
    pipe, write_end = OutputPipe.open(lambda data: said.extend(data[: _MAX_HELP_BYTES - len(said)]))
    env = llama_environment(embedded=kind == "embedded")
    try:
        process = OsProcess(argv, env=env, cwd=None, stdin=subprocess.DEVNULL, output=write_end)
        await process.started()
    except OSError as error:
        pipe.close()
        raise LaunchError(f"llama-server cannot be run: {argv[0]}: {error.strerror or error}") from error
    finally:
        os.close(write_end)
    try:
        async with asyncio.timeout(_PROBE_SEC):
            code = await process.wait()
    except TimeoutError:
        raise LaunchError(f"{' '.join(argv)} gave no answer within {_PROBE_SEC:g} s") from None
    finally:
        kill_group(process.pid)
        await pipe.drain(timeout=_LAST_WORDS_SEC)
    return code, said.decode("utf-8", "replace")
