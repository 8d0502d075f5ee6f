"""Makes an executable out of the fake llama-server, to be named as the binary."""

import shlex
import sys
from pathlib import Path

_FAKES = Path(__file__).parent


def make_fake_binary(
    folder: Path, *options: str, name: str = "llama-server", program: str = "fake_llama_server.py"
) -> Path:
    """An executable that runs the fake llama-server with these options before those it is called with."""
    words = [sys.executable, "-I", "-S", str(_FAKES / program), *options]
    path = folder / name
    path.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path
