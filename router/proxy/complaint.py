"""An upstream's own error answer, translated into ours: status, message and type stay, the shape becomes whole.

Only a failure that is no failure but the request's fault (see `blame`) becomes the 400 that it should have been.
"""

from __future__ import annotations

import json

from router.errors import UnsupportedByModel, UpstreamFailed
from router.proxy.blame import UNSUPPORTED, blamed
from router.proxy.dialect import ErrorInfo

SOURCE = "x-error-source"
_LONGEST_TEXT = 2000
# llama-server's error types -> the codes that clients look for.
_CODES = {
    "exceed_context_size_error": "context_length_exceeded",
    "invalid_request_error": "invalid_request",
    "not_supported_error": "unsupported_by_model",
    "not_found_error": "not_found",
    "server_error": "upstream_error",
}
_STANDARD = frozenset(("message", "type", "param", "code"))
# How llama-server refuses to generate with a model that was loaded for embeddings (status 500).
_NO_LOGITS = "does not support logits"


def translated(status: int, body: bytes) -> ErrorInfo:
    """Translate an upstream answer with a status of 400 or more."""
    error = _error_object(body)
    message = _text(error.get("message")) or f"The model's server answered with status {status}."
    if status == 401:  # our own key was refused: nothing the client could mend
        return ErrorInfo.of(UpstreamFailed("The model's server refused the router's key.", retry_after=1))
    if _NO_LOGITS in message:
        return ErrorInfo.of(UnsupportedByModel(f"This model makes embeddings; it cannot generate text ({message})."))
    blame = blamed(message) if status == 500 else None
    if status == 501 or blame == UNSUPPORTED:
        return ErrorInfo.of(UnsupportedByModel(message))
    kind = _text(error.get("type")) or ("invalid_request_error" if status < 500 else "server_error")
    code = error.get("code")
    if blame is not None:
        status, kind, code = 400, "invalid_request_error", blame
    return ErrorInfo(
        status=status,
        message=message,
        type=kind,
        code=code if isinstance(code, str) else _CODES.get(kind, kind),
        param=_text(error.get("param")) or None,
        extra={key: value for key, value in error.items() if key not in _STANDARD},
        headers=_headers(status),
    )


def _headers(status: int) -> dict[str, str]:
    """Who looks for the cause of a 5xx has to know whose it is."""
    source = {SOURCE: "model"} if status >= 500 else {}
    return source | ({"retry-after": "1"} if status in {429, 503} else {})


def _error_object(body: bytes) -> dict[str, object]:
    """The error in any of the shapes seen: `{"error": {…}}`, `{"error": "…"}`, `{"message": …}`, plain text."""
    text = body.decode("utf-8", "replace").strip()
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {"message": text[:_LONGEST_TEXT]}
    if isinstance(found, dict):
        inner = found.get("error", found)
        return inner if isinstance(inner, dict) else {"message": _text(inner)}
    return {"message": text[:_LONGEST_TEXT]}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
