"""What is asked and answered, for the log of those who want it there: `api.log_prompts`."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

from router.proxy.downstream import Downstream, Watcher
from router.telemetry.logs import cleaned
from router.wire.sink import RawHeaders

_log = logging.getLogger("router.prompts")
_MOST = 2000  # characters of each
_KEPT = _MOST + 4096  # bytes; a key that begins before the cut has to be known as one, and so be whole
# What looks like somebody's key; those that the router knows are blotted out of every line.
_KEY = re.compile(r"\b(?:sk|pk|rk|hf|ghp|gho|glpat|xox[abpr])[-_][\w-]{8,}|\bBearer\s+[\w.~+/-]{8,}=*", re.ASCII)
_REDACTED = "[redacted]"


class Overheard:
    """A `Downstream` that keeps the beginning of what is written to another."""

    def __init__(self, client: Downstream) -> None:
        self._client = client
        self.beginning = bytearray()

    @property
    def status(self) -> int:
        return self._client.status

    @property
    def sent(self) -> int:
        return self._client.sent

    @property
    def complete(self) -> bool:
        return self._client.complete

    def watch(self, watcher: Watcher | None) -> None:
        self._client.watch(watcher)

    def start(self, status: int, headers: RawHeaders) -> None:
        self._client.start(status, headers)

    def flush(self) -> None:
        self._client.flush()

    def write(self, chunk: bytes) -> None:
        self._keep(chunk)
        self._client.write(chunk)

    def end(self, chunk: bytes = b"") -> None:
        self._keep(chunk)
        self._client.end(chunk)

    def break_off(self, last_words: bytes = b"") -> None:
        self._keep(last_words)
        self._client.break_off(last_words)

    def _keep(self, chunk: bytes) -> None:
        self.beginning += chunk[: _KEPT - len(self.beginning)]


@contextmanager
def overheard(client: Downstream, request_id: str, model: str, asked: bytes) -> Iterator[Downstream]:
    """Log what is asked, and at the end what was answered; yields the client to answer."""
    ear = Overheard(client)
    _log.info("Request %s asks %s: %s", request_id, model, _told(asked[:_KEPT]))
    try:
        yield ear
    finally:
        _log.info("Request %s was answered: %s", request_id, _told(bytes(ear.beginning)))


def _told(text: bytes) -> str:
    told = cleaned(_KEY.sub(_REDACTED, text.decode("utf-8", "replace")))
    return f"{told[:_MOST]}…" if len(told) > _MOST else told
