"""What a model may be called: its name in `models`, and every further alias."""

from __future__ import annotations

MAX_LENGTH = 256

# `/v1/models/<name>` would mean something else for these.
RESERVED = ("failed", "status", "load", "eject", "status/stream")
RESERVED_ENDINGS = ("/status", "/reset")


def name_fault(name: str) -> str | None:
    """What is wrong with a name, as a sentence for people; None when it is fine."""
    if not name or name != name.strip():
        return "a name is not empty and does not begin or end with white space"
    if len(name) > MAX_LENGTH:
        return f"a name has at most {MAX_LENGTH} characters, this one has {len(name)}"
    if not name.isprintable():
        return "a name consists of printable characters"
    if "," in name:
        return "a name holds no comma: llama-server would split it there"
    if any(part in {"", ".", ".."} for part in name.split("/")):
        return "a name has no empty, `.` or `..` part between its slashes"
    return _route_fault(name)


def _route_fault(name: str) -> str | None:
    if name == "*":
        return "`*` means all models in preload_models"
    if name in RESERVED:
        return f"/v1/models/{name} is a route of the router"
    for ending in RESERVED_ENDINGS:
        if name.endswith(ending):
            return f"/v1/models/…{ending} is a route of the router"
    return None
