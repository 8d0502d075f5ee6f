"""llama.cpp from the `xllamacpp` wheel, behind llama-server's own command line.

`python -m router.backends.embedded -m model.gguf --port 8085` is llama.cpp's real HTTP server in a process of its own.
It differs from llama-server in little: it loads one model and is never a router itself, it downloads nothing, it reads
no `config.ini`, its log is text on stderr whatever `--log-jsonl` says, and it ends at the first signal instead of
waiting for attached clients. A signal that comes while the model loads kills it, as it kills a loading llama-server.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from router.backends.embedded_flags import BadCommandLine, apply, usage
from router.backends.embedded_table import SECTIONS

DEFAULT_PORT = 8080
AUTO_SLOTS = -1  # llama.cpp makes it 4 slots that share one KV cache
GGUF_MAGIC = b"GGUF"
HELP = {"-h", "--help", "--usage"}


class CannotServe(Exception):
    """The model cannot be loaded or the port cannot be had; the message is for people."""


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Any:
    """The `xllamacpp.CommonParams` that llama-server would make of this command line. Raises BadCommandLine."""
    params = xllamacpp.CommonParams()
    params.port = DEFAULT_PORT
    params.n_parallel = AUTO_SLOTS
    params.default_template_kwargs = {"preserve_reasoning": "true"}
    apply((flag for flags in SECTIONS.values() for flag in flags), params, argv, environ)
    if not params.model.path:
        raise BadCommandLine("error: --model is required")
    return params


def serve(params: Any) -> Any:
    """Load the model and open the port; returns the server once it is ready. Raises CannotServe."""
    path = params.model.path
    try:
        with Path(path).open("rb") as file:
            if file.read(len(GGUF_MAGIC)) != GGUF_MAGIC:
                raise CannotServe(f"failed to load model '{path}': it is not a GGUF file")
    except OSError as error:
        raise CannotServe(f"failed to open GGUF file '{path}': {error.strerror}") from error
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise CannotServe(f"llama.cpp could not serve '{path}'; its own lines above say why") from error


def watch_signals() -> socket.socket:
    """From now on SIGTERM and SIGINT put a byte into this socket instead of killing the process."""
    # Unlike `signal.pause`, a wake-up socket leaves no gap between looking and sleeping.
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    signal.set_wakeup_fd(sender.detach())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return receiver


def help_text() -> str:
    """What `--help` prints: llama-server's layout, with the flags that work here."""
    sections = [f"----- {title} -----\n\n" + "".join(map(usage, flags)) for title, flags in SECTIONS.items()]
    return "\n\n".join(sections)


def version_text() -> str:
    build = xllamacpp.BUILD_INFO
    return (
        f"version: {xllamacpp.__version__} (embedded llama.cpp, xllamacpp wheel)\n"
        f"built with {build['compiler']} for {build['build_target']}\n"
    )


def say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Serve until a signal; returns 1 where llama-server would."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if not HELP.isdisjoint(argv):
        sys.stdout.write(help_text())
        return 0
    if "--version" in argv:
        sys.stderr.write(version_text())
        return 0
    try:
        server = serve(parse(argv, environ))
    except (BadCommandLine, CannotServe) as error:
        say(str(error))
        return 1
    signals = watch_signals()
    say(f"serving {server.listening_address}")
    signals.recv(1)
    # No clean-up: xllamacpp's own waits for attached clients: 30 s for a stream, without end for an answer.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
