"""Open files: every connection is one. Without any left the router can neither be reached nor start a model."""

from __future__ import annotations

import sys

if sys.platform != "win32":
    import resource

# For models' sockets, pipes and logs, and for clients that are told that they are too many.
_OTHERS = 1024


def connections_that_fit(connections: int, *, requests: int) -> int:
    """How many of these connections of clients this process may have; its own limit is raised as far as they need it.

    Args:
        requests: of them are being answered, which takes a connection to a model each.
    """
    if sys.platform == "win32":
        return connections
    needed = connections + requests + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        except (OSError, ValueError):  # macOS has a further limit that it does not tell here
            soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return connections
    return min(connections, max(connections - (needed - soft), soft // 2))
