"""What is said once the router listens."""

from __future__ import annotations

import logging
import socket
import sys
from pathlib import Path

from router import __version__
from router.config import Settings
from router.demo import welcome

_log = logging.getLogger(__name__)


def serving(settings: Settings) -> str:
    """In a few words, for systemd."""
    return f"serving {len(settings.models)} model(s)"


def announce(settings: Settings, sock: socket.socket, demo: Path | None) -> None:
    """Tell the log where it listens and who may come in, and a newcomer what to try."""
    host, port = sock.getsockname()[:2]
    address = f"[{host}]" if ":" in host else host
    url = f"http://{'127.0.0.1' if host in ('0.0.0.0', '::') else address}:{port}"
    _log.info("llama-router %s listens on %s:%d with %d model(s)", __version__, address, port, len(settings.models))
    _log.info("%s", _who_may_come_in(settings))
    for warning in settings.warnings:
        _log.warning("%s", warning)
    if demo is not None:
        sys.stderr.write(welcome(url, next(iter(settings.models)), folder=demo, with_key=bool(settings.keys.clients)))


def _who_may_come_in(settings: Settings) -> str:
    if settings.keys.clients:
        told = f"{len(settings.keys.clients)} API key(s): clients must present one."
    elif settings.api.allow_unauthenticated:
        told = "No API_KEY, and api.allow_unauthenticated is true: everybody who reaches this port is served."
    else:
        told = "No API_KEY: only clients on this machine are served."
    return told if settings.keys.admin is None else f"{told} Managing models needs ADMIN_API_KEY."
