"""A request's headers by name: looked up one by one, they are cheaper than one pass after another over all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from starlette.types import Scope

_KEY = "llama_router.named"


def by_name(headers: Iterable[tuple[bytes, bytes]]) -> Mapping[bytes, bytes]:
    """One value for each name, in lower case; of those that were repeated a list (RFC 9110, section 5.3)."""
    pairs = headers if isinstance(headers, list) else list(headers)
    found = dict(pairs)
    if len(found) < len(pairs):
        for name in found:
            found[name] = b", ".join([value for other, value in pairs if other == name])
    return found


def replace_headers(scope: Scope, headers: list[tuple[bytes, bytes]]) -> None:
    """These in place of those that came."""
    scope["headers"] = headers
    scope.pop(_KEY, None)


def named(scope: Scope) -> Mapping[bytes, bytes]:
    """The headers of a scope, put together when they are first asked for."""
    found: Mapping[bytes, bytes] | None = scope.get(_KEY)
    if found is None:
        found = scope[_KEY] = by_name(scope["headers"])
    return found
