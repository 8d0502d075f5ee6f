"""Control calls to one llama-server: is it well, is it ours, what are its slots doing."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import socket
from dataclasses import dataclass
from typing import Any

import httpx

from router.backends.port_pool import LOOPBACK
from router.engine.ports import SlotReading

_TIMEOUT_SEC = 3.0
# llama-server closes an idle connection after 5 s.
_KEEPALIVE_SEC = 4.0


_HEALTH = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_WELL = b"HTTP/1.1 200 "
_COUNTER = re.compile(r"^llamacpp:(prompt_(?:tokens|tokens_cached|seconds)_total) (\S+)$", re.MULTILINE)


class NotOurs(Exception):
    """What listens on the port is not the child with this key."""


class NotSupported(ConnectionError):
    """This build, or this kind of model, does not do what was asked."""


@dataclass(frozen=True, slots=True)
class SlotFile:
    """What llama-server says it has written of a slot, or read."""

    tokens: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PromptWork:
    """Prompts since the child's start: tokens read, seconds spent on that, and tokens found in the cache.

    Attributes:
        cached: None where the build does not say.
    """

    tokens: float
    seconds: float
    cached: float | None


class ControlClient:
    """Every call has a deadline of its own; `port` may differ from call to call until the child has settled.

    Attributes:
        key: what the child demands. Told to nobody before it is proved that the listener refuses another one.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        # No proxy of the environment stands between us and loopback; no pool limit that a cancelled call could eat up.
        self._http = httpx.AsyncClient(
            timeout=_TIMEOUT_SEC,
            trust_env=False,
            verify=False,  # noqa: S501  plain http on loopback; saves loading the certificates
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=2, keepalive_expiry=_KEEPALIVE_SEC),
        )

    async def healthy(self, port: int) -> bool:
        """Whether `/health` says 200; it says 503 while the model loads. Never raises.

        Asked forty times a second of each model that loads, so not by httpx, which takes a millisecond for it.
        """
        try:
            async with asyncio.timeout(_TIMEOUT_SEC):
                reader, writer = await asyncio.open_connection(LOOPBACK, port)
                try:
                    writer.write(_HEALTH)
                    return (await reader.readline()).startswith(_WELL)
                finally:
                    writer.transport.abort()
        except (OSError, ValueError):  # ValueError: a line that never ends
            return False

    async def identify(self, port: int, *, expected_slots: int) -> int:
        """Prove that the listener is ours and return its number of slots.

        The right key must be served and a wrong one refused: a server without a key would accept both. Raises NotOurs,
        or OSError when it does not answer.
        """
        wrong = await self._get(port, "/props", secrets.token_urlsafe(16))
        if wrong.status_code != httpx.codes.UNAUTHORIZED:
            raise NotOurs(f"another server answers on port {port}: {_said(wrong)} to a wrong key, and not 401")
        right = await self._get(port, "/props", self.key)
        if right.status_code != httpx.codes.OK:
            raise NotOurs(f"another server answers on port {port}: {_said(right)} to the child's key, and not 200")
        slots = _json(right)
        total = slots.get("total_slots") if isinstance(slots, dict) else None
        return total if isinstance(total, int) and total > 0 else expected_slots

    async def slots(self, port: int) -> tuple[SlotReading, ...]:
        """Raises OSError (TimeoutError is one) when they cannot be had."""
        response = await self._get(port, "/slots", self.key)
        if response.status_code != httpx.codes.OK:
            raise ConnectionError(f"/slots answered {response.status_code}")
        return parse_slots(_json(response))

    async def prompt_work(self, port: int) -> PromptWork:
        """What `/metrics` says of prompts. Raises OSError."""
        response = await self._get(port, "/metrics", self.key)
        if response.status_code != httpx.codes.OK:
            raise ConnectionError(f"/metrics answered {response.status_code}")
        return parse_prompt_work(response.text)

    async def save_slot(self, port: int, slot: int, name: str, *, timeout: float) -> SlotFile:
        """Have an idle slot written to this file of `--slot-save-path`. Raises OSError, NotSupported among them."""
        document = await self._move_slot(port, f"/slots/{slot}?action=save", name, timeout)
        return _slot_file(document, "n_saved", "n_written")

    async def restore_slot(self, port: int, slot: int, name: str, *, timeout: float) -> SlotFile:
        """Have a slot read from this file. Raises OSError, NotSupported among them."""
        document = await self._move_slot(port, f"/slots/{slot}?action=restore", name, timeout)
        return _slot_file(document, "n_restored", "n_read")

    async def set_aside(self, port: int, slot: int, *, timeout: float) -> None:
        """Have a slot's memory moved to the prompt cache in RAM, by giving the slot a token of work. Raises OSError.

        llama-server puts away what a prompt is about to displace (`get_available_slot`); nothing else makes it do so.
        """
        asked = {"prompt": [0], "n_predict": 0, "id_slot": slot}
        response = await self._ask("POST", port, "/completion", self.key, body=asked, timeout=timeout)
        if response.status_code != httpx.codes.OK:
            raise ConnectionError(f"/completion answered {response.status_code}: {_reason(response)}")

    async def close(self) -> None:
        await self._http.aclose()

    async def _move_slot(self, port: int, path: str, name: str, timeout: float) -> Any:
        response = await self._ask("POST", port, path, self.key, body={"filename": name}, timeout=timeout)
        if response.status_code in (httpx.codes.NOT_IMPLEMENTED, httpx.codes.NOT_FOUND):
            raise NotSupported(f"{path} answered {response.status_code}: {_reason(response)}")
        if response.status_code != httpx.codes.OK:
            raise ConnectionError(f"{path} answered {response.status_code}: {_reason(response)}")
        return _json(response)

    async def _get(self, port: int, path: str, key: str | None = None) -> httpx.Response:
        return await self._ask("GET", port, path, key)

    async def _ask(
        self, method: str, port: int, path: str, key: str | None, *, body: Any = None, timeout: float = _TIMEOUT_SEC
    ) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        url = f"http://{LOOPBACK}:{port}{path}"
        try:
            return await self._http.request(method, url, headers=headers, json=body, timeout=timeout)
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{path} gave no answer within {timeout:g} s") from error
        # RuntimeError is what httpx says when it has been closed meanwhile.
        except (httpx.HTTPError, RuntimeError) as error:
            raise ConnectionError(f"{path}: {error}") from error


def warm_up() -> None:
    """Have httpx import what it imports with its first client and its first call; blocking, so call it in a thread.

    On the event loop that would be a stall of 60 to 200 ms in the middle of the first spawn.
    """

    async def ask(port: int) -> None:
        client = ControlClient("")
        with contextlib.suppress(OSError):
            await client.slots(port)
        await client.close()

    with socket.socket() as nobody:
        nobody.bind((LOOPBACK, 0))  # and does not listen
        asyncio.run(ask(nobody.getsockname()[1]))


def parse_slots(document: Any) -> tuple[SlotReading, ...]:
    """The answer of `/slots`. Progress = prompt tokens processed + tokens decoded.

    `next_token` is a list in newer builds and an object in older ones. Raises OSError when it is something else.
    """
    try:
        return tuple(map(_slot_reading, document))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConnectionError(f"/slots answered something unexpected: {error!r}") from error


def parse_prompt_work(page: str) -> PromptWork:
    """The figures in a `/metrics` page; what is missing there counts 0."""
    try:
        found = {name: float(value) for name, value in _COUNTER.findall(page)}
    except ValueError as error:
        raise ConnectionError(f"/metrics answered something unexpected: {error}") from error
    tokens, seconds = found.get("prompt_tokens_total", 0.0), found.get("prompt_seconds_total", 0.0)
    return PromptWork(tokens, seconds, found.get("prompt_tokens_cached_total"))


def _slot_reading(slot: Any) -> SlotReading:
    decoded, busy = _decoded(slot.get("next_token")), bool(slot["is_processing"])
    return SlotReading(
        id=int(slot["id"]),
        busy=busy,
        task=int(slot.get("id_task", -1)),
        progress=int(slot.get("n_prompt_tokens_processed", 0)) + decoded,
        tokens=int(slot.get("n_prompt_tokens", 0)),
        context=int(slot.get("n_ctx", 0)),
        reading=busy and not decoded,
    )


def _decoded(next_token: Any) -> int:
    parts = next_token if isinstance(next_token, list) else [next_token or {}]
    return sum(int(part.get("n_decoded", 0)) for part in parts)


def _said(response: httpx.Response) -> str:
    return f"{response.url.path} says {response.status_code}"


def _slot_file(document: Any, tokens: str, size: str) -> SlotFile:
    try:
        return SlotFile(tokens=int(document[tokens]), bytes=int(document[size]))
    except (KeyError, TypeError, ValueError) as error:
        raise ConnectionError(f"/slots answered something unexpected: {error!r}") from error


def _reason(response: httpx.Response) -> str:
    """Its own words, cut: they end up in a log."""
    return response.text[:200]


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ConnectionError(f"{response.url.path} answered no JSON") from error
