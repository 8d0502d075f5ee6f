"""Which models keep their conversations over an unload, where, and for how long they are good."""

from __future__ import annotations

import hashlib
import json
import logging
import stat
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from router.backends.capabilities import Capabilities
from router.backends.conversations import ConversationStore
from router.backends.save_forecast import DiskPace, Forecast
from router.backends.slot_keeper import SlotKeeper

_log = logging.getLogger(__name__)

_FLAG = "--slot-save-path"
_PROMPT_CACHE = "--cache-ram"
_SET_ASIDE = 4
_MIB = 1024**2


class Launched(Protocol):
    """What of a model's launch decides whether an old slot can be read again."""

    @property
    def all_files(self) -> tuple[Path, ...]: ...

    @property
    def flags(self) -> tuple[str, ...]: ...

    @property
    def env(self) -> Mapping[str, str]: ...

    @property
    def slots(self) -> int: ...

    @property
    def has_conversations(self) -> bool: ...


class Keeping:
    """Hands every child its keeper. All methods block on the disk, and may be called from any thread.

    Args:
        folder: of the kept conversations, absolute.
        limit_mb: of all of them together; 0 = none are kept.
        working_dir: what relative paths in flags are relative to.
    """

    def __init__(self, folder: Path, limit_mb: int, working_dir: Path) -> None:
        self._store = ConversationStore(folder, limit_mb * _MIB)
        self._is_on = limit_mb > 0
        self.working_dir = working_dir
        self._disk = DiskPace()
        self._forecasts: dict[str, Forecast] = {}
        self._fingerprints: dict[str, str] = {}
        self._lock = threading.Lock()

    def tidy(self, models: Mapping[str, Launched], build: Capabilities, *, alone: bool) -> None:
        """Delete what cannot be restored any more, all of it where nothing is kept.

        Args:
            alone: no child lives, so that what was being written or read will never be finished.
        """
        fingerprints: dict[str, str] = {}
        if self._is_on:
            kept = {name: spec for name, spec in models.items() if _can_keep(spec, build)}
            fingerprints = {name: self._fingerprint(name, spec, build) for name, spec in kept.items()}
            with self._lock:
                self._fingerprints = dict(fingerprints)
        self._store.retain(fingerprints.values(), sweep=alone)

    def keeper(self, model: str, spec: Launched, build: Capabilities, *, alone: bool = True) -> SlotKeeper | None:
        """For a new child of this model; None where nothing is kept, or cannot be.

        What is kept goes to the child that comes `alone`: those beside it save, and get nothing back.
        """
        if not self._is_on or not _can_keep(spec, build):
            return None
        fingerprint = self._fingerprint(model, spec, build)
        with self._lock:
            before, self._fingerprints[model] = self._fingerprints.get(model, fingerprint), fingerprint
            if before != fingerprint:
                self._store.drop(before)
            forecast = self._forecasts.setdefault(fingerprint, Forecast(self._disk))
        if forecast.in_vain:
            return None
        try:
            aside = _SET_ASIDE if build.supports(_PROMPT_CACHE) else 0
            folder = self._store.open(fingerprint)
            return SlotKeeper(model, folder, forecast, aside=aside, restores=alone)
        except OSError as error:
            _log.warning("the conversations of %s are not kept: %s: %s", model, error.filename, error.strerror)
            return None

    def _fingerprint(self, model: str, spec: Launched, build: Capabilities) -> str:
        """Changes with everything that decides what a saved slot means: files, flags, slots and the build."""
        named = [self.working_dir / word for word in _words((*spec.flags, *spec.env.values()))]
        program = [Path(build.command[0])] if build.kind == "binary" else []
        facts = [
            model, spec.flags, dict(spec.env), spec.slots, build.kind, build.version,
            _stamps([*spec.all_files, *program]), _stamps(named),
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def _words(values: Iterable[str]) -> list[str]:
    """Whatever may be the name of a file: `--lora=a.gguf`, `a.gguf,b.gguf`, `a.gguf:0.5`."""
    found: list[str] = []
    for value in values:
        for piece in (value.partition("=")[2] if value.startswith("-") else value).split(","):
            found += dict.fromkeys((value, piece, piece.rpartition(":")[0]))
    return [word for word in found if word and not word.startswith("-")]


def _can_keep(spec: Launched, build: Capabilities) -> bool:
    """Not where the user has a folder of their own for slots."""
    is_taken = any(flag.partition("=")[0] == _FLAG for flag in spec.flags)
    return spec.has_conversations and build.supports(_FLAG) and not is_taken


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Name, size and time of those that exist and are files."""
    found = []
    for file in files:
        try:
            status = file.stat()
        except (OSError, ValueError):
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        found.append((str(file), status.st_size, status.st_mtime_ns))
    return found
