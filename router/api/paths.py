"""Paths as the routes know them."""

from __future__ import annotations

from starlette.types import Scope


def drop_trailing_slash(scope: Scope) -> None:
    """Make `/a/` of a scope `/a`: answered alike, without a redirect that loses a POST's body."""
    path = scope["path"]
    if path[-1:] == "/" and len(path) > 1:
        scope["path"] = path.rstrip("/") or "/"
