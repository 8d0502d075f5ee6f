"""Whether a request without a key may come in, where no key is configured.

Only from this machine, unless `api.allow_unauthenticated` opens the door. And never out of a web page that somebody
else wrote: neither one that was made to point here by its name (DNS rebinding), which its `Host` gives away, nor one
that sends requests across (`Origin`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from starlette.types import Scope

from router.config import ApiConfig

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
# Nobody can have a name below these in the public DNS.
_PRIVATE = (".home.arpa", ".internal", ".local", ".localhost")


class Strangers:
    """The rules for callers without a key, as they are configured."""

    def __init__(self, api: ApiConfig) -> None:
        self._open = api.allow_unauthenticated
        self._hosts = api.allowed_hosts
        self._origins = frozenset(api.cors_origins)
        self._any_page = self._open and "*" in self._origins

    def may_enter(self, scope: Scope) -> bool:
        """Whether this request may come in without a key."""
        headers = scope["headers"]
        if not self._open and not _is_of_this_machine(scope):
            return False
        hosts = [_host_of(f"//{_text(value)}") for name, value in headers if name == b"host"]
        return all(self._is_ours(host) for host in hosts) and not self._is_of_a_foreign_page(headers, hosts)

    def _is_ours(self, host: str) -> bool:
        if _is_loopback_name(host) or any(fnmatchcase(host, pattern) for pattern in self._hosts):
            return True
        return self._open and bool(host) and (_is_address(host) or "." not in host or host.endswith(_PRIVATE))

    def _is_of_a_foreign_page(self, headers: Sequence[tuple[bytes, bytes]], hosts: list[str]) -> bool:
        if self._any_page:
            return False
        if all(name != b"origin" for name, _ in headers):
            # An <img>, <iframe> or link of a foreign page; some GETs have a model loaded. Whatever a page reads, or
            # sends by another method, says where it comes from.
            foreign = (b"cross-site", b"same-site") if any(map(_has_siblings, hosts)) else (b"cross-site",)
            return any(name == b"sec-fetch-site" and value in foreign for name, value in headers)
        for name, value in headers:
            if name == b"origin" and (origin := _text(value)) not in self._origins:
                host = _host_of(origin)
                if not (_is_loopback_name(host) or (host and host in hosts)):
                    return True
        return False


def _host_of(url: str) -> str:
    """The host of a URL in lower case, without a dot at its end; empty if there is none."""
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:
        return ""


def _is_of_this_machine(scope: Scope) -> bool:
    """A loopback peer, for itself."""
    client = scope.get("client")
    if client is None or not _is_loopback(client[0]):
        return False
    return not any(name in _FORWARDING or name.startswith(b"x-forwarded-") for name, _ in scope["headers"])


def _text(value: bytes) -> str:
    return value.decode("latin-1")


def _is_loopback_name(host: str) -> bool:
    return host == "localhost" or _is_loopback(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _has_siblings(host: str) -> bool:
    """Whether hosts of other people may be of its site: `evil.example.org` beside `llm.example.org`.

    An address, and a name without a dot, is a site by itself: on it are other ports at most.
    """
    return "." in host and not _is_address(host)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
