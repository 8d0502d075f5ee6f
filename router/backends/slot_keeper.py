"""Saves what one child's slots remember before it ends, and gives it back to the next one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from router.backends.control_client import ControlClient, NotSupported
from router.backends.conversations import Conversation, ConversationFolder
from router.backends.save_forecast import Forecast, deadline
from router.engine.ports import SlotReading

_log = logging.getLogger(__name__)

_USED_APART = 1000  # nanoseconds between the times of two files that are saved together
# A restored prompt that was asked for again and of which so little came out of the cache was of no use.
_IN_VAIN_SHARE = 0.5


class SlotKeeper:
    """The conversations of one child. No method raises or outlasts what it could spare.

    Args:
        model: its name, for the log.
        aside: how many conversations its prompt cache is given beyond those in slots.
        restores: it gets any back at all.
    """

    def __init__(
        self, model: str, folder: ConversationFolder, forecast: Forecast, *, aside: int, restores: bool = True
    ) -> None:
        self._model = model
        self._folder = folder
        self._forecast = forecast
        self._aside = aside
        self._restores = restores
        self._restored: list[Conversation] = []
        self._first_task = 0

    @property
    def path(self) -> Path:
        """The folder for `--slot-save-path`."""
        return self._folder.path

    async def restore(self, control: ControlClient, port: int, slots: int) -> int:
        """Give a new child the last conversations: one a slot, the latest first, and some more; how many it has got."""
        if not self._restores:
            return 0
        try:
            if not await asyncio.to_thread(self._folder.newest, 1):
                return 0
            # llama.cpp's fit may have cut the context: what a longer or shorter one wrote is not for this child.
            context = max(slot.context for slot in await control.slots(port))
            found = await asyncio.to_thread(self._folder.newest, slots + self._aside, context=context)
            await self._restore_aside(control, port, found[slots:])
            slot = 0
            for one in found[:slots]:
                slot += await self._restore_one(control, port, slot, one)
        except OSError as error:
            _log.debug("%s: no more conversations restored: %s", self._model, error)
        return len(self._restored)

    async def save(self, control: ControlClient, port: int) -> int:
        """Write down what the idle slots remember, the last used first; returns how many are kept."""
        kept = 0
        try:
            work = await control.prompt_work(port)
            self._forecast.note_prompts(work.tokens, work.seconds)
            continued: list[Conversation] = []
            used = time.time_ns()
            for rank, slot in enumerate(self._used(await control.slots(port))):
                older = await self._save_one(control, port, slot, used - rank * _USED_APART)
                kept += older is not None
                continued += older or ()
            if self._was_in_vain(continued, work.cached):
                await self._give_up("what is restored is read anew all the same, as with sliding windows")
                return 0
        except NotSupported as error:
            await self._give_up(str(error))
        except OSError as error:
            _log.debug("%s: no more conversations saved: %s", self._model, error)
        return kept

    async def _restore_aside(self, control: ControlClient, port: int, more: Sequence[Conversation]) -> None:
        """Restore what no slot is left for, and have the child put it into its prompt cache, the oldest first.

        All of them together may take what each of them is worth.
        """
        began = time.monotonic()
        for one in reversed(more):
            left = deadline(one.prefill) - (time.monotonic() - began)
            if left > 0 and await self._restore_one(control, port, 0, one):
                await control.set_aside(port, 0, timeout=left)
        if self._restored:
            # These were tasks too, and no user's.
            self._first_task = 1 + max(slot.task for slot in await control.slots(port))

    async def _restore_one(self, control: ControlClient, port: int, slot: int, one: Conversation) -> bool:
        part = self._folder.doubt(one)  # not in a thread: a cancellation would lose sight of it
        if part is None:
            return False
        read = False
        try:
            state = await control.restore_slot(port, slot, part.name, timeout=deadline(one.prefill))
            if state.tokens != one.tokens:
                raise ConnectionError(f"{state.tokens} of {one.tokens} tokens restored")
            read = True
        except OSError as error:
            _log.debug("%s: a kept conversation of %d tokens is of no use: %s", self._model, one.tokens, error)
            return False
        finally:
            if not read:  # also when this is cancelled, as it is when the child dies of the file
                self._folder.discard(part)
        await asyncio.to_thread(self._folder.trust, part, one)
        self._restored.append(one)
        return True

    async def _save_one(
        self, control: ControlClient, port: int, slot: SlotReading, used: int
    ) -> list[Conversation] | None:
        """The kept conversations that this slot's has taken the place of; None if it is not kept."""
        tokens = slot.tokens
        if not self._forecast.is_worth_it(tokens):
            return None
        if not await asyncio.to_thread(self._folder.has_room, self._forecast.size(tokens)):
            return None
        part = self._folder.begin()
        try:
            return await self._write(control, port, slot, part, used)
        finally:
            # Unless it has another name by now, it was not kept; nobody waits for its end any more.
            part.unlink(missing_ok=True)

    async def _write(
        self, control: ControlClient, port: int, slot: SlotReading, part: Path, used: int
    ) -> list[Conversation] | None:
        prefill = self._forecast.prefill(slot.tokens)
        began = time.monotonic()
        try:
            state = await control.save_slot(port, slot.id, part.name, timeout=deadline(prefill))
        except NotSupported:
            raise
        except OSError as error:
            _log.debug("%s: slot %d is not saved: %s", self._model, slot.id, error)
            return None
        self._forecast.note_save(state.tokens, state.bytes, time.monotonic() - began)
        return await asyncio.to_thread(
            self._folder.keep,
            part,
            tokens=state.tokens,
            size=state.bytes,
            prefill=prefill,
            context=slot.context,
            used=used,
        )

    def _was_in_vain(self, continued: Sequence[Conversation], cached: float | None) -> bool:
        """Whether prompts that were restored and came again were not found in the cache."""
        paths = {one.path for one in self._restored}
        expected = sum(one.tokens for one in continued if one.path in paths)
        return cached is not None and cached < _IN_VAIN_SHARE * expected

    async def _give_up(self, why: str) -> None:
        _log.info("%s: conversations are not kept over an unload: %s", self._model, why)
        self._forecast.in_vain = True
        await asyncio.to_thread(self._folder.clear)

    def _used(self, slots: Sequence[SlotReading]) -> list[SlotReading]:
        """Idle slots with work of users since the start, the last used first: tasks are numbered in their order."""
        used = [slot for slot in slots if not slot.busy and slot.task >= self._first_task]
        return sorted(used, key=lambda slot: -slot.task)
