"""Whether this router is alone with a folder that several may share, e.g. two with one state directory."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger(__name__)


class FolderShare:
    """A lock file that every user of the folder holds a share of for as long as it lives; the kernel lets go of it.

    All methods block, though never for another router, and none raises.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._descriptor: int | None = None

    @contextlib.contextmanager
    def entry(self) -> Iterator[bool]:
        """Enter; within the block nobody else can, if it yields True. Once only."""
        alone = True
        try:
            alone = self._enter()
        except OSError as error:  # a file system without locks
            _log.debug("%s: %s", self._file, error)
        try:
            yield alone
        finally:
            if alone:
                self._share()

    def leave(self) -> None:
        """Idempotent."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _enter(self) -> bool:
        if sys.platform == "win32":  # whoever asks is taken to be alone
            return True
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("%s: another router keeps its conversations there too; theirs stay", self._file.parent)
            self._share()
            return False
        return True

    def _share(self) -> None:
        if sys.platform != "win32" and self._descriptor is not None:
            with contextlib.suppress(OSError):  # somebody else is just tidying up
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
