"""What each route needs of its caller: one table. A route that is not in it needs the admin key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from router.api.endpoints import endpoint_of_child
from router.errors import AuthenticationFailed, Forbidden


class Level(Enum):
    """How much a caller may do."""

    OPEN = "whoever asks"
    KEY = "asking models, and seeing what is loaded"
    ADMIN = "changing what is loaded, and reading what llama-server says of others"


@dataclass(frozen=True, slots=True)
class Need:
    """What one route asks for.

    Attributes:
        token: METRICS_TOKEN will do too.
        ticket: a single-use ticket will do too.
    """

    level: Level
    token: bool = False
    ticket: bool = False


OPEN, KEY, ADMIN = map(Need, Level)

# By the path of the route; a method of its own in front where methods of one path differ.
NEEDS: Mapping[str, Need] = {
    "/health": OPEN,
    "/healthz": OPEN,
    "/docs": OPEN,  # says nothing that this repository does not
    "/openapi.json": OPEN,
    "/metrics": Need(Level.KEY, token=True),
    "/metrics/stream": Need(Level.KEY, token=True, ticket=True),
    "/v1/models/status/stream": Need(Level.KEY, ticket=True),
    # What there is, and how it is.
    "/": KEY,
    "/models": KEY,
    "/readyz": KEY,
    "/v1/models": KEY,
    "/v1/models/{model:model_name}": KEY,
    "/v1/models/status": KEY,
    "/v1/models/failed": KEY,
    "/v1/models/{alias:path}/status": KEY,
    "/v1/queue/stats": KEY,
    "/v1/stream-ticket": KEY,
    "/v1/telemetry/summary": KEY,
    "/vram": KEY,
    # What is asked of models.
    "/v1/chat/completions": KEY,
    "/v1/chat/completions/input_tokens": KEY,
    "/v1/chat/completions/control": KEY,
    "/v1/completions": KEY,
    "/v1/responses": KEY,
    "/v1/responses/input_tokens": KEY,
    "/v1/embeddings": KEY,
    "/v1/messages": KEY,
    "/v1/messages/count_tokens": KEY,
    "/v1/rerank": KEY,
    "/v1/reranking": KEY,
    "/v1/systemone": KEY,
    "/v1/audio/transcriptions": KEY,
    "/completion": KEY,
    "/completions": KEY,
    "/embedding": KEY,
    "/embeddings": KEY,
    "/rerank": KEY,
    "/reranking": KEY,
    "/infill": KEY,
    "/tokenize": KEY,
    "/detokenize": KEY,
    "/apply-template": KEY,
    "/props": KEY,
    "GET /lora-adapters": KEY,
    "/upstream/{rest:path}": KEY,  # at the least: see `need_of_child`
    # What changes things for everybody, or shows what others do.
    "POST /lora-adapters": ADMIN,
    "/slots": ADMIN,
    "/v1/health/models": ADMIN,  # with the last lines of logs
    "/v1/models/load": ADMIN,
    "/v1/models/eject": ADMIN,
    "/v1/models/{alias:path}/reset": ADMIN,
    "/v1/reload": ADMIN,
}
# What a client asks of a server that it knows by its address below /upstream alone; no row of the table.
_CHILDS_OWN = frozenset(("/health", "/v1/health", "/models", "/v1/models"))


def need_of(method: str, path: str) -> Need:
    """The need of the route with this path, as the route spells it."""
    method = "GET" if method == "HEAD" else method
    return NEEDS.get(f"{method} {path}") or NEEDS.get(path, ADMIN)


def need_of_child(method: str, path: str) -> Need:
    """The need of what stands below `/upstream/{alias}`: as the same call elsewhere, else the admin key."""
    if method != "POST" and path in _CHILDS_OWN:
        return KEY
    known = endpoint_of_child(method, path)
    if known.model_in == "path":
        return ADMIN
    found = need_of(method, known.path)
    return KEY if found.token else found


@dataclass(frozen=True, slots=True)
class Caller:
    """Who has come in.

    Attributes:
        name: of the key that was shown; empty = none was.
        manages: may do what needs the admin key.
    """

    name: str
    manages: bool

    def check(self, need: Need) -> None:
        """Raises AuthenticationFailed or Forbidden if this caller may not do what needs this."""
        if need.level is not Level.ADMIN or self.manages:
            return
        if not self.name:
            raise AuthenticationFailed("This needs the admin key (ADMIN_API_KEY), and no key was shown.")
        raise Forbidden(f"This needs the admin key (ADMIN_API_KEY). The key '{self.name}' is for asking models only.")


NOBODY = Caller("", manages=False)
