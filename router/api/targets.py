"""What stands in the request line that goes to an upstream."""

from __future__ import annotations

from collections.abc import Container
from urllib.parse import quote, unquote_plus

_PATH_SAFE = "/:@!$&'()*+,;=~"
_QUERY_SAFE = _PATH_SAFE + "?%[]"
_OURS = frozenset(("ticket",))


def target(path: str, query: bytes, *, dropped: Container[str] = _OURS) -> str:
    """Percent-encoded path and query; query fields that are the router's own are left out.

    Args:
        path: decoded, as in an ASGI scope.
        query: as the client sent it.
    """
    fields = [field for field in query.decode("latin-1").split("&") if field and _name(field) not in dropped]
    encoded = quote("&".join(fields), safe=_QUERY_SAFE, encoding="latin-1")
    return quote(path, safe=_PATH_SAFE) + (f"?{encoded}" if encoded else "")


def _name(field: str) -> str:
    return unquote_plus(field.partition("=")[0])
