"""Every path that is relayed to a model's child: one table for routing, dialects and the OpenAPI page."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

from router.proxy.dialect import Dialect


class Claim(Enum):
    """What a call claims of its model."""

    SLOT = "a slot for as long as it runs; it is counted"
    CHILD = "a child, whose slots it does without: a ready one answers at once, a cold model is loaded for it"
    NOTHING = "an answer if the child is ready; what asks again and again must not keep a model in memory"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A path of a model's child.

    Attributes:
        model_in: where the request names its model: the JSON body, a multipart form field, the query, or the path.
        generates: it makes a model write text, which one that was started to embed or to rank cannot.
    """

    path: str
    methods: tuple[str, ...]
    model_in: Literal["json", "form", "query", "path"]
    claim: Claim
    generates: bool
    summary: str


def _text(path: str, summary: str) -> Endpoint:
    return Endpoint(path, ("POST",), "json", Claim.SLOT, generates=True, summary=summary)


def _post(path: str, summary: str, model_in: Literal["json", "form"] = "json") -> Endpoint:
    return Endpoint(path, ("POST",), model_in, Claim.SLOT, generates=False, summary=summary)


def _control(path: str, methods: tuple[str, ...], claim: Claim, summary: str) -> Endpoint:
    return Endpoint(path, methods, "query", claim, generates=False, summary=summary)


def _anything(method: str, claim: Claim) -> Endpoint:
    path = "/upstream/{alias}/{path}"
    return Endpoint(path, (method,), "path", claim, generates=False, summary="Anything of a model's child")


# Cheap calls such as `/tokenize` take a lease too: that is what gets a cold model loaded, and they are over at once.
ENDPOINTS = (
    _text("/v1/chat/completions", "Chat"),
    _post("/v1/chat/completions/input_tokens", "Count the tokens of a chat"),
    _post("/v1/chat/completions/control", "Steer a running chat"),
    _text("/v1/completions", "Complete a text"),
    _text("/v1/responses", "Responses API"),
    _post("/v1/responses/input_tokens", "Count the tokens of a response request"),
    _post("/v1/embeddings", "Embed texts"),
    _text("/v1/messages", "Anthropic's Messages API"),
    _post("/v1/messages/count_tokens", "Count the tokens of Anthropic messages"),
    _post("/v1/rerank", "Rank documents"),
    _post("/v1/reranking", "Rank documents"),
    _post("/v1/systemone", "Ask a decision model"),
    _post("/v1/audio/transcriptions", "Transcribe audio", "form"),
    _text("/completion", "llama.cpp's own completion"),
    _text("/completions", "llama.cpp's own completion"),
    _post("/embedding", "llama.cpp's own embedding"),
    _post("/embeddings", "llama.cpp's own embedding"),
    _post("/rerank", "Rank documents"),
    _post("/reranking", "Rank documents"),
    _text("/infill", "Fill in code"),
    _post("/tokenize", "Text to tokens"),
    _post("/detokenize", "Tokens to text"),
    _post("/apply-template", "Render a chat as the model's prompt"),
    _control("/props", ("GET",), Claim.CHILD, "Properties of the model's child"),
    _control("/slots", ("GET",), Claim.NOTHING, "Slots of the model's child"),
    _control("/lora-adapters", ("GET", "POST"), Claim.CHILD, "LoRA adapters of the model's child"),
)
# Without `?model=` this path is the router's own, so it is not routed by the table.
CHILD_METRICS = _control("/metrics", ("GET",), Claim.NOTHING, "Metrics of the model's child")
# What is below `/upstream` and not in the table.
ANYTHING = {"GET": _anything("GET", Claim.CHILD), "POST": _anything("POST", Claim.SLOT)}

_BY_PATH = {endpoint.path: endpoint for endpoint in (*ENDPOINTS, CHILD_METRICS)}


def endpoint_of_child(method: str, path: str) -> Endpoint:
    """What a call below `/upstream` is; llama-server has some paths of the table without their `/v1` too."""
    method = "GET" if method == "HEAD" else method
    found = _BY_PATH.get(path) or _BY_PATH.get("/v1" + path)
    return found if found is not None and method in found.methods else ANYTHING[method]


def dialect_of(path: str) -> Dialect:
    """The dialect in which errors on this path are told."""
    if _at(path, "/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.RESPONSES if _at(path, "/v1/responses") else Dialect.OPENAI


def _at(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
