"""Logging: one readable line per record on stderr, with secrets and control characters taken out."""

from __future__ import annotations

import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from types import TracebackType
from typing import TextIO

# Shorter strings occur in ordinary text; blotting them out would hide nothing and ruin the log.
MIN_SECRET_LENGTH = 4
REDACTED = "[redacted]"

_COLOURS = {
    logging.DEBUG: "\x1b[2m",
    logging.WARNING: "\x1b[33m",
    logging.ERROR: "\x1b[31m",
    logging.CRITICAL: "\x1b[1;31m",
}
_RESET = "\x1b[0m"
# C0, DEL, C1, and the separators and direction marks that let text forge or reorder a line.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_ASCII_CONTROLS = bytes(code for code in (*range(0x20), 0x7F) if code != ord("\n"))

# Their errors come up while requests are handled, and an error's message may quote what it stumbled over.
_OF_REQUESTS = ("router.api", "router.proxy", "router.wire", "asyncio", "uvicorn", "sse_starlette")
_UVICORN_LOGGERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")
# They tell each control call at INFO; only their warnings are news.
_CHATTY_LOGGERS = ("httpx", "httpcore", "asyncio", "sse_starlette")


ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


class _Secrets:
    """Strings that must not reach the log."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._pattern: re.Pattern[str] | None = None

    def add(self, secret: str) -> None:
        if len(secret) >= MIN_SECRET_LENGTH:
            self._known.add(secret)
            self._compile()

    def discard(self, secret: str) -> None:
        self._known.discard(secret)
        self._compile()

    def strip(self, text: str) -> str:
        # Looking for each is several times faster than the pattern, and nearly every line holds none.
        if self._pattern is None or not any(secret in text for secret in self._known):
            return text
        return self._pattern.sub(REDACTED, text)

    def _compile(self) -> None:
        # Longest first, so that a secret within a longer one does not leave the rest of it standing.
        parts = [re.escape(secret) for secret in sorted(self._known, key=len, reverse=True)]
        self._pattern = re.compile("|".join(parts)) if parts else None


_secrets = _Secrets()


def redact(secret: str) -> None:
    """From now on this string is blotted out of every line."""
    _secrets.add(secret)


def forget(secret: str) -> None:
    """This string is no secret any more, e.g. the key of a child that is gone."""
    _secrets.discard(secret)


def cleaned(text: str) -> str:
    """Without secrets, and without what could forge a line."""
    return _escape(_secrets.strip(text))


def cleaned_lines(lines: Sequence[str]) -> str:
    """The same for many, one below the other. Looked at together, as nearly always there is nothing to clean."""
    text = _secrets.strip("\n".join(lines))
    plain = text.isascii() and len(text.encode().translate(None, _ASCII_CONTROLS)) == len(text)
    if plain and text.count("\n") == len(lines) - 1:
        return text
    return "\n".join(cleaned(line) for line in lines)


class Moment:
    """Tells the time as it stands before each line; that of the last second is kept."""

    __slots__ = ("_second", "_text")

    def __init__(self) -> None:
        self._second = -1
        self._text = ""

    def at(self, seconds: float) -> str:
        """`2026-11-21 06:23:00.123`, local time, of seconds since the epoch."""
        if (second := int(seconds)) != self._second:
            self._second, self._text = second, time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(second))
        return f"{self._text}.{int(seconds * 1000) % 1000:03d}"


class LineFormatter(logging.Formatter):
    """`2026-11-21 06:23:00.123 WARNING router.engine  message`, a traceback indented below it."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour
        self._moment = Moment()

    def format(self, record: logging.LogRecord) -> str:
        lines = [self._head(record)]
        if record.exc_info:
            lines += self._trace(record.name, record.exc_info)
        if record.stack_info:
            lines += record.stack_info.splitlines()
        return "\n    ".join(cleaned(line) if number else line for number, line in enumerate(lines))

    def _trace(self, name: str, info: ExcInfo) -> list[str]:
        if info[1] is not None and name.startswith(_OF_REQUESTS):
            return _without_messages(info[1])
        return self.formatException(info).splitlines()

    def _head(self, record: logging.LogRecord) -> str:
        message = cleaned(record.getMessage())
        level = f"{record.levelname:<7}"
        if self._colour and (paint := _COLOURS.get(record.levelno)):
            level = f"{paint}{level}{_RESET}"
        return f"{self._moment.at(record.created)} {level} {record.name}  {message}"


def configure_logging(level: str | int = "INFO", *, stream: TextIO | None = None) -> None:
    """Send every logger's records to `stream` (stderr), uvicorn's included and its access log left out; idempotent.

    Start uvicorn with `log_config=None`, or it puts its own handlers back. Raises ValueError for an unknown level.
    """
    target = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(target)
    handler.setFormatter(LineFormatter(colour=target.isatty() and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old.formatter, LineFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Not in our lines, so not to be found out for each of them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root.setLevel(level.upper() if isinstance(level, str) else level)
    for name in _UVICORN_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for name in _CHATTY_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_messages(error: BaseException) -> list[str]:
    """A traceback with the types of all errors, from the first to the last, and none of their messages."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    lines = [] if before is None else _without_messages(before)
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        lines += _without_messages(inner)
    lines.append("Traceback (most recent call last):")
    lines += "".join(traceback.format_tb(error.__traceback__)).splitlines()
    return [*lines, f"{type(error).__qualname__} (its message is left out, as it may quote a request)"]


def _escape(text: str) -> str:
    if text.isprintable():  # all of _CONTROL is not
        return text
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)
