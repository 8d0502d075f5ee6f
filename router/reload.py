"""Reading the configuration anew while the router runs.

Everything that can go wrong comes first and changes nothing: the file is read and checked, the models' files are
looked at, off the event loop. Then all who hold a part of the settings are told in one step in which nothing else runs,
so no request ever meets half of a configuration.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Protocol, TypeVar

from router.config import Changes, Reloaded, Settings, compare
from router.errors import ConfigError, ConfigRefused, ConfigUnread, Problem, ShuttingDown
from router.inventory import Entry, inventory, renewed
from router.telemetry.reloads import Reloads
from router.worker import Worker, apart

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PATIENCE_SEC = 60.0
# A file that is just being written is another one at each look; it is loaded as it is, and its load says what is wrong.
_NEXT_LOOK_SEC = 5.0


class Holders(Protocol):
    """Everybody who holds a part of the settings; the composition root knows them."""

    @property
    def accepting(self) -> bool:
        """False while the router starts up or shuts down."""

    def reloading(self) -> AbstractContextManager[None]:
        """Around each attempt, whatever comes of it."""

    def in_memory(self) -> Sequence[str]:
        """Models that are loaded, or are being."""

    def adopt(self, settings: Settings, entries: Sequence[Entry], changed: Sequence[str]) -> None:
        """Tell all of them. Does not suspend, and must not fail.

        Args:
            changed: models whose replicas are of no use any more.
        """

    async def tidy(self) -> None:
        """Clear away what nobody can use any more."""


class Reloader:
    """Holds what was read last, and reads it anew, once at a time.

    Args:
        read: blocking; raises ConfigError.
        gpu_available: see `inventory`.
        asked: set by a signal.
        patience: seconds for the configuration's file, and again for the models' files.
    """

    def __init__(
        self,
        settings: Settings,
        entries: Sequence[Entry],
        *,
        read: Callable[[], Settings],
        gpu_available: bool,
        holders: Holders,
        news: Reloads,
        asked: asyncio.Event,
        patience: float = _PATIENCE_SEC,
    ) -> None:
        self._settings = settings
        self._entries = tuple(entries)
        self._read = read
        self._gpu_available = gpu_available
        self._holders = holders
        self._news = news
        self._one_at_a_time = asyncio.Lock()
        self._asked = asked
        self._renewed_at: dict[str, float] = {}
        self._patience = patience
        # One thread, however often it is tried: what hangs on a disk cannot be called off.
        self._disk = Worker("configuration")

    async def serve(self) -> None:
        """Read it whenever it was `asked` for, until cancelled. What goes wrong is told by the log."""
        while True:
            await self._asked.wait()
            self._asked.clear()
            try:
                await self()
            except (ConfigRefused, ConfigUnread, ShuttingDown) as error:
                _log.error("the configuration was not read anew: %s", error.message)
            except Exception:  # noqa: BLE001 - a bug must not end all later attempts
                _log.exception("the configuration was not read anew")

    def close(self) -> None:
        """Let go of the thread, also if it hangs."""
        self._disk.stop()

    async def __call__(self) -> Reloaded:
        """See `Reload`."""
        async with self._one_at_a_time:
            self._check_open()
            with self._holders.reloading():
                return await self._reload()

    async def renew(self, name: str) -> bool:
        """Before a model is loaded: read its files again if they were replaced since they were read.

        Returns whether they were. Then this load, which was planned for the old ones, is being called off, and the
        next one is planned for those that are there.
        """
        entry, now = self._entry(name), asyncio.get_running_loop().time()
        if entry is None or now - self._renewed_at.get(name, -_NEXT_LOOK_SEC) < _NEXT_LOOK_SEC:
            return False
        # On no thread that others wait for: another model's disk may be well.
        found = await apart(partial(renewed, self._settings, entry))
        if found is None or self._entry(name) is not entry or not self._holders.accepting:
            return False
        _log.info("the files of %s were replaced: what it takes is computed anew", name)
        self._renewed_at[name] = now
        self._entries = tuple(found if one is entry else one for one in self._entries)
        self._holders.adopt(self._settings, self._entries, [name])
        return True

    def _entry(self, name: str) -> Entry | None:
        return next((one for one in self._entries if one.name == name), None)

    def _check_open(self) -> None:
        if not self._holders.accepting:
            raise ShuttingDown("The router is shutting down.", retry_after=5)

    def _check_files(self, new: Settings) -> None:
        """A file that is gone must not pass for the wish to serve nothing, or for that to ask for no key."""
        old = self._settings
        for before, now in ((old.source, new.source), (old.dotenv, new.dotenv)):
            if before is not None and now is None:
                hint = "put it back; to go on without it, restart the router"
                raise ConfigError(str(before), [Problem("", "the file is gone", hint)])

    async def _reload(self) -> Reloaded:
        try:
            new = await self._off_the_loop(self._read, f"Reading {self._settings.source or 'the settings'}")
            self._check_files(new)
        except ConfigError as error:
            self._news.refused(str(error))
            raise ConfigRefused(f"Configuration refused, the old one holds. {error}") from error
        changes = compare(self._settings, new)
        look = partial(inventory, changes.settings, gpu_available=self._gpu_available, known=self._entries)
        entries = await self._off_the_loop(look, "Looking at the models' files")
        self._check_open()  # it may have been told to stop meanwhile
        reloaded = self._adopt(changes, entries)
        await self._holders.tidy()
        return reloaded

    async def _off_the_loop(self, call: Callable[[], T], what: str) -> T:
        """The result of a call that may hang for as long as a disk does. Raises ConfigUnread, and what it raises."""
        try:
            return await self._disk.run(call, self._patience)
        except TimeoutError as error:
            late = str(error) or f"no answer within {self._patience:g} s"
            why = f"{what}: {late}, so a disk or a network share hangs. The old configuration holds."
            self._news.refused(why)
            raise ConfigUnread(f"{why} Mend that, and try again.", retry_after=30) from error

    def _adopt(self, changes: Changes, entries: tuple[Entry, ...]) -> Reloaded:
        """The step in which everything changes; it does not suspend."""
        keys = dict(_with_files(changes, self._entries, entries))
        earlier = {entry.name: entry.origin for entry in self._entries}
        made_anew = [entry.name for entry in entries if earlier.get(entry.name, entry.origin) != entry.origin]
        there = set(self._holders.in_memory())
        self._settings, self._entries = changes.settings, entries
        self._holders.adopt(changes.settings, entries, made_anew)
        reloaded = Reloaded(
            added=changes.added,
            removed=changes.removed,
            changed=keys,
            restarted=tuple(name for name in made_anew if name in there),
            unchanged=len(entries) - len(changes.added) - len(keys),
            applied=changes.applied,
            restart_required=changes.restart_required,
        )
        self._news.succeeded()
        for line in _told(reloaded, changes.settings):
            _log.info("%s", line)
        return reloaded


def _with_files(
    changes: Changes, before: Sequence[Entry], after: Sequence[Entry]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The keys of each model that differs; one whose files were replaced differs too."""
    stamps = {entry.name: entry.stamps for entry in before}
    for entry in after:
        keys = changes.models.get(entry.name, ())
        if not keys and stamps.get(entry.name, entry.stamps) != entry.stamps:
            keys = ("files",)
        if keys:
            yield entry.name, keys


def _told(reloaded: Reloaded, settings: Settings) -> Iterator[str]:
    """What the log says about it."""
    parts = [
        f"added {', '.join(reloaded.added)}" if reloaded.added else "",
        f"removed {', '.join(reloaded.removed)}" if reloaded.removed else "",
        *(f"changed {name} ({', '.join(keys)})" for name, keys in reloaded.changed.items()),
        f"restarted {', '.join(reloaded.restarted)}" if reloaded.restarted else "",
        f"applied {', '.join(reloaded.applied)}" if reloaded.applied else "",
    ]
    told = "; ".join(filter(None, parts)) or "nothing has changed"
    yield f"configuration read anew: {told}; {reloaded.unchanged} model(s) as before"
    if reloaded.restart_required:
        yield f"these keys have changed, and hold only after a restart: {', '.join(reloaded.restart_required)}"
    yield from (*settings.notes, *settings.warnings)
