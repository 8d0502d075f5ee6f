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
    """The conversations of one child. No method raises or outlasts what it could spare."""

    def __init__(self, folder: ConversationFolder, forecast: Forecast) -> None:
        self._folder = folder
        self._forecast = forecast
        self._restored: list[Conversation] = []

    @property
    def path(self) -> Path:
        """The folder for `--slot-save-path`."""
        return self._folder.path

    async def restore(self, control: ControlClient, port: int, slots: int) -> int:
        """Fill the slots with the last conversations, the latest first; returns how many were restored."""
        slot = 0
        try:
            for one in await asyncio.to_thread(self._folder.newest, slots):
                slot += await self._restore_one(control, port, slot, one)
        except OSError as error:
            _log.debug("no conversations restored from %s: %s", self._folder.path, error)
        return slot

    async def save(self, control: ControlClient, port: int) -> int:
        """Write down what the idle slots remember, the last used first; returns how many are kept."""
        kept = 0
        try:
            work = await control.prompt_work(port)
            self._forecast.note_prompts(work.tokens, work.seconds)
            continued: list[Conversation] = []
            used = time.time_ns()
            for rank, slot in enumerate(_worth_a_look(await control.slots(port))):
                older = await self._save_one(control, port, slot, used - rank * _USED_APART)
                kept += older is not None
                continued += older or ()
            await self._judge(continued, work.cached)
        except NotSupported as error:
            _log.info("no conversations are kept in %s: %s", self._folder.path, error)
            await self._give_up()
        except OSError as error:
            _log.debug("no conversations saved to %s: %s", self._folder.path, error)
        return kept

    async def _restore_one(self, control: ControlClient, port: int, slot: int, one: Conversation) -> bool:
        part = await asyncio.to_thread(self._folder.doubt, one)
        if part is None:
            return False
        try:
            state = await control.restore_slot(port, slot, part.name, timeout=deadline(one.prefill))
            if state.tokens != one.tokens:
                raise ConnectionError(f"{state.tokens} of {one.tokens} tokens restored")
        except OSError as error:
            _log.debug("a kept conversation of %d tokens is of no use: %s", one.tokens, error)
            await asyncio.to_thread(self._folder.discard, part)
            return False
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
        part = await asyncio.to_thread(self._folder.begin)
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
            _log.debug("slot %d is not saved: %s", slot.id, error)
            return None
        self._forecast.note_save(state.tokens, state.bytes, time.monotonic() - began)
        keep = self._folder.keep
        return await asyncio.to_thread(keep, part, tokens=state.tokens, size=state.bytes, prefill=prefill, used=used)

    async def _judge(self, continued: Sequence[Conversation], cached: float | None) -> None:
        """See whether what was restored was of use: sliding windows and recurrent layers are read anew all the same."""
        paths = {one.path for one in self._restored}
        expected = sum(one.tokens for one in continued if one.path in paths)
        if expected and cached is not None and cached < _IN_VAIN_SHARE * expected:
            _log.info("%s: conversations are not kept any more: of %d restored tokens %d were of use",
                      self._folder.path, expected, cached)  # fmt: skip
            await self._give_up()

    async def _give_up(self) -> None:
        self._forecast.in_vain = True
        await asyncio.to_thread(self._folder.clear)


def _worth_a_look(slots: Sequence[SlotReading]) -> list[SlotReading]:
    """Idle slots that were used since the start, the last used first: tasks are numbered in their order."""
    return sorted((slot for slot in slots if not slot.busy and slot.task >= 0), key=lambda slot: -slot.task)
