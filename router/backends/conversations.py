"""Kept conversations: what the slots of unloaded models remembered, as files, bounded and for the owner's eyes alone.

A file's name says how many tokens and bytes are in it and how long a context it comes from, and its time when it was
last used. While llama-server writes or reads a file it has another name, which the next start sweeps away: llama.cpp
aborts at some files that are cut, and none may make a model crash twice.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from router.backends.kv_file import Prompt, continues, prompt_of

_log = logging.getLogger(__name__)

MAX_PER_MODEL = 16
_MIB = 1024**2
_LEFT_FREE = 512 * _MIB
_NAME = re.compile(
    r"(?P<tokens>\d{1,9})t-(?P<bytes>\d{1,15})b-(?P<millis>\d{1,9})ms-(?P<context>\d{1,12})c-[0-9a-f]{16}\.kv"
)
_PART = ".part"


@dataclass(frozen=True, slots=True)
class Conversation:
    """One kept slot.

    Attributes:
        prefill: seconds that reading it anew would take.
        context: tokens that its slot had room for.
        used: nanoseconds since the epoch.
    """

    path: Path
    tokens: int
    bytes: int
    prefill: float
    context: int
    used: int


class ConversationStore:
    """All of them, in one folder per model, flags and build (`fingerprint`); the least recently used go first.

    Every method blocks on the disk and may be called from any thread.

    Args:
        root: made when it is first needed, mode 0700.
        limit: bytes that all files together may take.
    """

    def __init__(self, root: Path, limit: int) -> None:
        self._root = root
        self._limit = limit
        self._lock = threading.Lock()

    def retain(self, fingerprints: Collection[str], *, sweep: bool) -> None:
        """Delete what belongs to none of these: to models that are gone or have changed, or to another build.

        Args:
            sweep: also what was being written or read when a router died; only while no child lives.
        """
        for folder in _entries(self._root):
            if folder.name not in fingerprints:
                _remove_tree(folder)
                continue
            for path in _entries(folder) if sweep else ():
                if not _NAME.fullmatch(path.name):
                    _remove_tree(path)

    def drop(self, fingerprint: str) -> None:
        """Delete one folder."""
        _remove_tree(self._root / fingerprint)

    def open(self, fingerprint: str) -> ConversationFolder:
        """A model's folder. Raises OSError."""
        for folder in (self._root, self._root / fingerprint):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            folder.chmod(0o700)
        return ConversationFolder(self, self._root / fingerprint)

    def has_room(self, size: int, *, written: int = 0) -> bool:
        """Whether a file of so many bytes may be kept: within the limit, and without filling the disk.

        `written` of them are on the disk already. Raises OSError.
        """
        return size <= self._limit and shutil.disk_usage(self._root).free - size + written >= _LEFT_FREE

    def trim(self) -> None:
        """Delete the least recently used ones above the limit."""
        with self._lock:
            found = sorted(self._all(), key=lambda one: one.used)
            excess = sum(one.bytes for one in found) - self._limit
            for one in found:
                if excess <= 0:
                    return
                _remove(one.path)
                excess -= one.bytes

    def _all(self) -> Iterator[Conversation]:
        for folder in _entries(self._root):
            yield from _conversations(folder)


class ConversationFolder:
    """What is kept of one model. Made by `ConversationStore.open`.

    Attributes:
        path: for `--slot-save-path`; llama-server reads and writes here.
    """

    def __init__(self, store: ConversationStore, path: Path) -> None:
        self._store = store
        self.path = path

    def clear(self) -> None:
        """Forget all of them."""
        for path in _entries(self.path):
            _remove(path)

    def newest(self, count: int, *, context: int | None = None) -> list[Conversation]:
        """The most recently used ones, the last one first; `context` leaves those of slots of another size out."""
        found = (one for one in _conversations(self.path) if context in (None, one.context))
        return sorted(found, key=lambda one: one.used, reverse=True)[:count]

    def has_room(self, size: int) -> bool:
        """See `ConversationStore.has_room`."""
        return self._store.has_room(size)

    def begin(self) -> Path:
        """An empty file for llama-server to write to. Raises OSError."""
        path = self.path / f"{secrets.token_hex(8)}{_PART}"
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        return path

    def keep(
        self, part: Path, *, tokens: int, size: int, prefill: float, context: int, used: int
    ) -> list[Conversation] | None:
        """Make a written file a kept one; returns what it continues and takes the place of.

        None = it is not kept: it was not written whole, is larger than was foreseen and than there is room for, or
        continues nothing that is not kept already. Raises OSError.
        """
        if part.stat().st_size != size or not self._store.has_room(size, written=size):
            _remove(part)
            return None
        older = self._continued_by(part)
        if older is None:
            _remove(part)
            return None
        name = f"{tokens}t-{size}b-{min(round(prefill * 1000), 999_999_999)}ms-{context}c-{part.stem}.kv"
        os.utime(part, ns=(used, used))
        part.rename(self.path / name)
        for one in (*older, *self.newest(10**6)[MAX_PER_MODEL:]):
            _remove(one.path)
        self._store.trim()
        return older

    def _continued_by(self, part: Path) -> list[Conversation] | None:
        """The kept ones that this file goes on with; None if one of them holds all that is in it."""
        prompt = prompt_of(part)
        found: list[Conversation] = []
        if prompt is None:
            return found
        for one in self.newest(MAX_PER_MODEL):
            other = _prompt(one.path)
            if other is None:
                continue
            if len(other) > len(prompt) and continues(other, prompt):
                return None
            if continues(prompt, other):
                found.append(one)
        return found

    def doubt(self, one: Conversation) -> Path | None:
        """Give a file the name of one in use, before llama-server reads it; None when it is not what it was."""
        try:
            if one.path.stat().st_size != one.bytes:
                raise OSError("its size has changed")  # noqa: TRY301  one way out of here
            return one.path.rename(self.path / f"{secrets.token_hex(8)}{_PART}")
        except OSError:
            _remove(one.path)
            return None

    def trust(self, part: Path, one: Conversation) -> None:
        """It was read well: it has its name back. Raises OSError."""
        part.rename(one.path)

    def discard(self, part: Path) -> None:
        """Delete a file that could not be written or read."""
        _remove(part)


def _conversations(folder: Path) -> Iterator[Conversation]:
    for path in _entries(folder):
        match = _NAME.fullmatch(path.name)
        if match is None:
            continue
        try:
            used = path.stat().st_mtime_ns
        except OSError:
            continue  # another thread made room meanwhile
        tokens, size, millis, context = (int(figure) for figure in match.groups())
        yield Conversation(path, tokens, size, millis / 1000, context, used)


def _prompt(path: Path) -> Prompt | None:
    try:
        return prompt_of(path)
    except OSError:
        return None


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("cannot delete %s: %s", path, error.strerror or error)


def _remove_tree(folder: Path) -> None:
    if folder.is_symlink() or not folder.is_dir():
        _remove(folder)
        return
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        _log.warning("cannot delete all of %s", folder)
