"""Paths as the routes know them."""

from __future__ import annotations

from starlette.types import Scope


def without_trailing_slash(scope: Scope) -> Scope:
    """A copy of the scope with `/a/` made `/a`: answered alike, without a redirect that loses a POST's body."""
    path = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        return {**scope, "path": path.rstrip("/") or "/"}
    return dict(scope)
