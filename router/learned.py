"""What models were seen to take, kept over restarts in the state folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from router.core.estimate import memory_flags
from router.core.learning import LEARNED, OBSERVED
from router.core.types import Device, ModelSpec, ModelView
from router.inventory import Entry, stamp

_log = logging.getLogger(__name__)

FILE = "learned.json"
MAX_ENTRIES = 1000
_MOST = 1 << 50  # bytes; more than that was not learned here


class LearnedMemory:
    """A file with one entry per model as it was loaded: what it takes, and how long the load takes.

    What the model is, its flags, its slots, llama.cpp and the devices are its key.

    Change one of them and the old figure does not count any more; flags that take no memory may change. A file that
    cannot be read or written costs the knowledge and nothing else.

    Args:
        build: tells one llama.cpp from another (see `backends.capabilities.build_stamp`).
    """

    def __init__(self, folder: Path, entries: Sequence[Entry], devices: Sequence[Device], build: str = "") -> None:
        self._file = folder / FILE
        self._circumstances = [build, *(f"{device.id} {device.name}" for device in devices)]
        self._keys: dict[str, str] = {}
        self._known = _read(self._file)
        self._saving = threading.Lock()
        self.adopt(entries)

    def adopt(self, entries: Sequence[Entry]) -> None:
        """These are the models from now on."""
        self._keys |= {entry.name: _fingerprint(entry, self._circumstances) for entry in entries}

    def apply(self, spec: ModelSpec) -> ModelSpec:
        """The spec with what is known of this model in place of the estimate."""
        known = self._known.get(self._keys[spec.name])
        if known is None:
            return spec
        base = max(spec.need.base, known.get("base", 0)) if spec.need.base else 0
        need = replace(spec.need, gpu=known["gpu"], host=known["host"], source=LEARNED, base=base)
        return replace(spec, need=need, load_seconds=known.get("load_seconds"))

    def note(self, view: ModelView) -> bool:
        """Remember what a model was seen to take; True if that is news."""
        need = view.estimate
        if need.source != OBSERVED:
            return False
        seen = {"gpu": need.gpu, "host": need.host, "base": need.base, "model": view.name,
                "load_seconds": _rounded(view.load_seconds)}  # fmt: skip
        news = self._known.pop(self._keys[view.name], None) != seen
        self._known[self._keys[view.name]] = seen  # at the end again
        return news

    def save(self) -> None:
        """Write the file, with what another router may have written there meanwhile. Blocking; for any thread."""
        with self._saving:  # at the end the thread that saves may not have come to its own yet
            self._write()

    async def save_within(self, seconds: float) -> None:
        """The same as the router ends: a disk that hangs costs what was learned, and not the end."""
        try:
            async with asyncio.timeout(seconds):
                await asyncio.to_thread(self.save)
        except TimeoutError:
            _log.error("what was learned about memory is not kept: the disk of %s does not answer", self._file)

    def _write(self) -> None:
        others = {key: known for key, known in _read(self._file).items() if key not in self._known}
        kept = list((others | self._known).items())[-MAX_ENTRIES:]  # the oldest go first
        temporary = self._file.with_name(f".{FILE}.{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(dict(kept), indent=1), encoding="utf-8")
            temporary.replace(self._file)
        except OSError as error:
            _log.warning("cannot keep what was learned about memory in %s: %s", self._file, error.strerror)


def _fingerprint(entry: Entry, circumstances: Sequence[str]) -> str:
    files = entry.fingerprint or [(file.name, *stamp(file)) for file in entry.files]
    flags = memory_flags(entry.config.flags)
    facts = [files, flags, dict(entry.config.env), entry.slots, entry.cache_ram_mb, circumstances]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _read(file: Path) -> dict[str, Mapping[str, Any]]:
    """The entries that can be understood; the file may be cut, or somebody else's."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if _is_entry(value)}


def _is_entry(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    seconds = value.get("load_seconds")
    known = seconds is None or (isinstance(seconds, (int, float)) and 0 <= seconds < float("inf"))
    sizes = value.get("gpu"), value.get("host"), value.get("base", 0)
    return known and all(isinstance(size, int) and 0 <= size < _MOST for size in sizes)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)
