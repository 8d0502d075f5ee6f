"""Whom a request comes from when it comes by way of a reverse proxy; believed of configured proxies alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from starlette.types import Scope

from router.api.named import replace_headers

_FOR = b"x-forwarded-for"
_PROTO = b"x-forwarded-proto"
_SCHEMES = frozenset((b"http", b"https"))
_LONGEST_ADDRESS = 64


class Proxies:
    """The addresses and networks of `api.forwarded_allow_ips`. Raises ValueError for what is neither."""

    __slots__ = ("_networks", "_trusts")

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks = tuple(ipaddress.ip_network(network) for network in networks)
        self._trusts = lru_cache(maxsize=1024)(self._is_within)

    def __contains__(self, host: object) -> bool:
        return bool(self._networks) and isinstance(host, str) and self._trusts(host)

    def believe(self, scope: Scope) -> None:
        """Put the client that a proxy names in place of the proxy; nobody, when it names none that can be read.

        Each proxy appends whom it heard, so the client is the last address that is not a proxy's. What has been
        believed is taken out of the headers.
        """
        client = scope["client"]
        if client is None or client[0] not in self:
            return
        forwarded = [value for name, value in scope["headers"] if name == _FOR]
        schemes = [value.strip().lower() for name, value in scope["headers"] if name == _PROTO]
        replace_headers(scope, [pair for pair in scope["headers"] if pair[0] not in {_FOR, _PROTO}])
        host = self._client(b",".join(forwarded).decode("latin-1"))
        scope["client"] = None if host is None else (host, 0)
        if schemes and schemes[-1] in _SCHEMES:
            scope["scheme"] = schemes[-1].decode("ascii")

    def _client(self, forwarded: str) -> str | None:
        host = None
        for text in reversed(forwarded.split(",")):
            host = _address(text.strip())
            if host is None or host not in self:
                break
        return host

    def _is_within(self, host: str) -> bool:
        address = _parsed(host)
        return address is not None and any(address in network for network in self._networks)


def _address(text: str) -> str | None:
    """`1.2.3.4`, `1.2.3.4:5`, `::1` or `[::1]:5` without its port; None when it is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = _parsed(text)
    return None if address is None else str(address)


def _parsed(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    if len(host) > _LONGEST_ADDRESS:
        return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
