"""Who may come in.

With a key: whoever shows it. Without: only this machine, and not by way of a proxy or of a web page that was made to
point here (DNS rebinding), unless `api.allow_unauthenticated` opens the door.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import parse_qs, urlsplit

from starlette.types import Scope

from router.api.named import named
from router.api.services import Services
from router.errors import AuthenticationFailed, Forbidden

OPEN = frozenset(("/health", "/healthz"))
TAKING_TICKETS = frozenset(("/v1/models/status/stream", "/metrics/stream"))
TAKING_METRICS_TOKEN = frozenset(("/metrics", "/metrics/stream"))
# What proxies add of their own accord. A proxy that adds nothing cannot be told from a local client.
_FORWARDING = frozenset(
    (
        b"cf-connecting-ip",
        b"fastly-client-ip",
        b"forwarded",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-forwarded",
        b"x-original-forwarded-for",
        b"x-original-host",
        b"x-real-ip",
    )
)
_MOST_ACCEPTED = 64  # ways to write the one key down


class Access:
    """The rules, as they are configured."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        self._tickets = services.tickets
        self._key = _digest_of(settings.api_key.get_secret_value()) if settings.api_key else None
        self._metrics_token = _digest_of(settings.metrics_token.get_secret_value()) if settings.metrics_token else None
        self._open = settings.api.allow_unauthenticated
        self._origins = frozenset(settings.api.cors_origins)
        # Headers that have shown the key, as they came. Python's hashes are keyed with randomness of this process, so
        # how long it takes to find none tells nothing of the others.
        self._accepted: set[tuple[bytes | None, bytes | None]] = set()

    def check(self, scope: Scope) -> None:
        """Raises AuthenticationFailed or Forbidden, unless the request may come in."""
        path = scope["path"]
        if path in OPEN or path.startswith("/health/"):
            return
        if self._key is None and (self._open or _is_local(scope, self._origins)):
            return
        if self._has_credential(scope, path):
            return
        if self._key is not None:
            raise AuthenticationFailed("Missing or wrong API key. Send it as `Authorization: Bearer …` or `x-api-key`.")
        raise Forbidden(
            "Without an API key only this machine itself is served. Set API_KEY, or api.allow_unauthenticated to true."
        )

    def _has_credential(self, scope: Scope, path: str) -> bool:
        headers = named(scope)
        told = headers.get(b"authorization"), headers.get(b"x-api-key")
        if told in self._accepted:
            return True
        shown = _credentials(*told)
        if self._key is not None and _is_among(shown, self._key):
            if len(self._accepted) < _MOST_ACCEPTED:
                self._accepted.add(told)
            return True
        query = parse_qs(scope["query_string"].decode("latin-1"))
        # A scraper's token is for the router's own metrics: `?model=` asks for a child's.
        for_metrics = self._metrics_token if path in TAKING_METRICS_TOKEN and "model" not in query else None
        if for_metrics is not None and _is_among(shown, for_metrics):
            return True
        return path in TAKING_TICKETS and "ticket" in query and self._tickets.redeem(query["ticket"][0])


def _is_among(shown: Iterable[bytes], digest: bytes) -> bool:
    for value in shown:  # noqa: SIM110 - `any` would take as long as the rest of it
        if hmac.compare_digest(value, digest):
            return True
    return False


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _digest_of(secret: str) -> bytes:
    return _digest(secret.encode())


def _credentials(authorization: bytes | None, api_key: bytes | None) -> list[bytes]:
    """Digests of what was shown in these headers."""
    found = []
    if api_key is not None:
        found.append(_digest(api_key.strip()))
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            found.append(_digest(token.strip()))
    return found


def _is_local(scope: Scope, origins: frozenset[str]) -> bool:
    """A loopback peer that speaks to a loopback name, for itself, and not out of a foreign web page."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return False
    for name, value in scope["headers"]:
        if name in _FORWARDING or name.startswith(b"x-forwarded-"):
            return False
        text = value.decode("latin-1")
        if name == b"host" and not _is_loopback_name(f"//{text}"):
            return False
        if name == b"sec-fetch-mode" and value == b"no-cors" and (b"sec-fetch-site", b"cross-site") in scope["headers"]:
            return False  # an <img> of a foreign page: browsers send no origin with it
        if name == b"origin" and text not in origins and not _is_loopback_name(text):
            return False
    return True


def _is_loopback_name(url: str) -> bool:
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or _is_loopback(host)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
