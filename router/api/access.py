"""Who may come in, and how far: one check for every request, of what the route that it matched needs.

With a key: whoever shows it. Without: see `strangers`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.types import Scope

from router.api.named import named
from router.api.needs import KEY, NOBODY, OPEN, Caller, Need
from router.api.services import Services
from router.api.strangers import Strangers
from router.errors import AuthenticationFailed, Forbidden

_MOST_REMEMBERED = 256  # ways to write keys down


class Access:
    """The rules, as they are configured."""

    def __init__(self, services: Services) -> None:
        settings = services.settings
        keys = settings.keys
        self._tickets = services.tickets
        # A lookup takes no time that depends on the key: only its digest is compared.
        self._callers = {key.digest: Caller(key.name, manages=keys.admin is None) for key in keys.clients}
        if keys.admin is not None:
            self._callers[keys.admin.digest] = Caller(keys.admin.name, manages=True)
        self._metrics = keys.metrics
        self._strangers = None if keys.clients else Strangers(settings.api)
        self._stranger = Caller("", manages=keys.admin is None)
        # Headers that have shown a key, as they came. Python's hashes are keyed with randomness of this process, so
        # how long it takes to find none tells nothing of the others.
        self._remembered: dict[tuple[bytes | None, bytes | None], Caller] = {}

    def check(self, scope: Scope, need: Need) -> Caller:
        """Who asks. Raises AuthenticationFailed or Forbidden, unless the caller may have what needs this."""
        if need is OPEN:
            return NOBODY
        headers = named(scope)
        told = headers.get(b"authorization"), headers.get(b"x-api-key")
        caller = self._remembered.get(told)
        if caller is None:
            shown = _credentials(*told)
            caller = self._owner(shown)
            if caller is None:
                return self._without_key(scope, need, shown)
            if len(self._remembered) < _MOST_REMEMBERED:
                self._remembered[told] = caller
        if need is not KEY:
            caller.check(need)
        return caller

    def _owner(self, shown: Iterable[bytes]) -> Caller | None:
        """Whose key is among these; the admin's goes before others."""
        owners = [self._callers[digest] for digest in shown if digest in self._callers]
        return max(owners, key=lambda caller: caller.manages, default=None)

    def _without_key(self, scope: Scope, need: Need, shown: Iterable[bytes]) -> Caller:
        if (need.token or need.ticket) and (caller := self._by_other_means(scope, need, shown)) is not None:
            return caller
        if self._strangers is None:
            raise AuthenticationFailed("Missing or wrong API key. Send it as `Authorization: Bearer …` or `x-api-key`.")
        if self._strangers.may_enter(scope):
            self._stranger.check(need)
            return self._stranger
        raise Forbidden(
            "Without an API key only this machine itself is served, by its own name. Set API_KEY, or "
            "api.allow_unauthenticated to true; further names belong in api.allowed_hosts, pages in api.cors_origins."
        )

    def _by_other_means(self, scope: Scope, need: Need, shown: Iterable[bytes]) -> Caller | None:
        query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        # A scraper's token is for the router's own metrics: `?model=` asks for a child's.
        if self._metrics is not None and need.token and "model" not in query:
            for digest in shown:
                if hmac.compare_digest(digest, self._metrics.digest):
                    return Caller(self._metrics.name, manages=False)
        if need.ticket and "ticket" in query and self._tickets.redeem(query["ticket"][0]):
            return NOBODY
        return None


def _credentials(authorization: bytes | None, api_key: bytes | None) -> list[bytes]:
    """Digests of what was shown in these headers."""
    found = []
    if api_key is not None:
        found.append(hashlib.sha256(api_key.strip()).digest())
    if authorization is not None:
        scheme, _, token = authorization.partition(b" ")
        if scheme.lower() == b"bearer":
            found.append(hashlib.sha256(token.strip()).digest())
    return found
