"""What can go wrong on a route, as the OpenAPI page tells it."""

from __future__ import annotations

from typing import Any

from router.api.schemas import Error

MEANINGS = {
    400: "The request cannot be understood, or the model cannot do this",
    401: "No key, or a wrong one",
    403: "This peer, or this key, may not do this",
    404: "No such model",
    408: "The body did not arrive",
    413: "The body is larger than `api.max_body_mb`",
    415: "The body is compressed",
    429: "The model's queue is full; see `Retry-After`",
    431: "More than 16 KB of headers",
    500: "A bug of the router; its log tells more under the request's id",
    502: "The model's server broke off",
    503: "Not now, the message says why; see `Retry-After` and `x-should-retry`",
    504: "No progress for `system.request_timeout_sec`, or longer than `system.generation_timeout_sec`",
}
ANYWHERE = (401, 403, 431, 500)
READING = (400, 408, 413, 415, 503)  # where a body is read


def failures(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of one of the router's own routes."""
    return {status: {"model": Error, "description": MEANINGS[status]} for status in statuses}
