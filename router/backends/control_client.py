"""Control calls to one llama-server: is it well, is it ours, what are its slots doing."""

from __future__ import annotations

import secrets
from typing import Any

import httpx

from router.backends.port_pool import LOOPBACK
from router.engine.ports import SlotReading

_TIMEOUT_SEC = 3.0
# llama-server closes an idle connection after 5 s.
_KEEPALIVE_SEC = 4.0


class NotOurs(Exception):
    """What listens on the port is not the child with this key."""


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
        """Whether `/health` says 200; it says 503 while the model loads. Never raises."""
        try:
            return (await self._get(port, "/health")).status_code == httpx.codes.OK
        except OSError:
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

    async def close(self) -> None:
        await self._http.aclose()

    async def _get(self, port: int, path: str, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        try:
            return await self._http.get(f"http://{LOOPBACK}:{port}{path}", headers=headers)
        except httpx.TimeoutException as error:
            raise TimeoutError(f"{path} gave no answer within {_TIMEOUT_SEC:g} s") from error
        # RuntimeError is what httpx says when it has been closed meanwhile.
        except (httpx.HTTPError, RuntimeError) as error:
            raise ConnectionError(f"{path}: {error}") from error


def parse_slots(document: Any) -> tuple[SlotReading, ...]:
    """The answer of `/slots`. Progress = prompt tokens processed + tokens decoded.

    `next_token` is a list in newer builds and an object in older ones. Raises OSError when it is something else.
    """
    try:
        return tuple(
            SlotReading(
                id=int(slot["id"]),
                busy=bool(slot["is_processing"]),
                task=int(slot.get("id_task", -1)),
                progress=int(slot.get("n_prompt_tokens_processed", 0)) + _decoded(slot.get("next_token")),
            )
            for slot in document
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConnectionError(f"/slots answered something unexpected: {error!r}") from error


def _decoded(next_token: Any) -> int:
    parts = next_token if isinstance(next_token, list) else [next_token or {}]
    return sum(int(part.get("n_decoded", 0)) for part in parts)


def _said(response: httpx.Response) -> str:
    return f"{response.url.path} says {response.status_code}"


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise ConnectionError(f"{response.url.path} answered no JSON") from error
