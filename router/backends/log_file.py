"""A rotated file, bounded on disk, that is written off the event loop and holds up nobody when its disk does."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from pathlib import Path

from router.worker import Errand, Post

_log = logging.getLogger(__name__)

MAX_WAITING_BYTES = 1024 * 1024
_RETRY_SEC = 30.0


class LogFile:
    """Takes text on one thread, and writes it on another. Never raises and never blocks.

    What a disk does not take is held, up to 1 MiB; of what is more, only the number of lines is written.

    Args:
        path: the file, made at the first write; its predecessor is kept as `<path>.1`.
        max_bytes: of each of the two.
        post: to the thread that writes, the same for all that write to one path.
    """

    def __init__(self, path: Path, *, max_bytes: int, post: Post) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._writing = Errand(self._write, post)
        self._lock = threading.Lock()  # for what both threads touch; never held while the disk is asked
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._lost = 0
        self._closed = False
        # For the thread that writes alone.
        self._file: int | None = None
        self._size = 0
        self._retry_at = 0.0

    def write(self, text: str) -> None:
        """Whole lines; none once it is closed."""
        data = text.encode("utf-8", "replace")[-self._max_bytes :]
        with self._lock:
            if self._closed:
                return
            if self._held + len(data) <= MAX_WAITING_BYTES:
                self._waiting.append(data)
                self._held += len(data)
            else:
                self._lost += text.count("\n")
        self._writing.ask()

    def close(self) -> None:
        """What has been taken is still written."""
        with self._lock:
            self._closed = True
        self._writing.ask()

    # --- on the thread that writes

    def _write(self) -> None:
        with self._lock:
            data, lost = b"".join(self._waiting), self._lost
            self._waiting.clear()
            self._held = self._lost = 0
        if lost:
            data += b"--- %d lines are missing here: the disk was too slow\n" % lost
        if data:
            self._put(data)
        if self._closed:
            self._close_file()

    def _put(self, data: bytes) -> None:
        if self._file is None and time.monotonic() < self._retry_at:
            return
        try:
            if self._file is None:
                self._open()
            elif self._size + len(data) > self._max_bytes:
                self._rotate()
            assert self._file is not None  # noqa: S101  just opened
            # A short write (disk full) loses its end, no more.
            self._size += os.write(self._file, data[-self._max_bytes :])
        except OSError as error:
            _log.warning("cannot write the log %s (%s); going on without it", self._path, error.strerror or error)
            self._close_file()
            self._retry_at = time.monotonic() + _RETRY_SEC

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # What models are asked may show in their logs, so they are for the owner alone.
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size = os.fstat(self._file).st_size
        if self._size >= self._max_bytes:
            self._rotate()

    def _rotate(self) -> None:
        self._close_file()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._open()

    def _close_file(self) -> None:
        handle, self._file = self._file, None
        if handle is not None:
            os.close(handle)
