"""Every path that is relayed to a model's child: one table for routing, dialects and the OpenAPI page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from router.proxy.dialect import Dialect


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A relayed path.

    Attributes:
        model_in: where the request names its model: the JSON body, a multipart form field, or the query.
        leased: True = always takes a slot. False = goes straight to a ready replica, and takes a lease only to have
            a cold model loaded.
        generates: it makes a model write text, which one that was started to embed or to rank cannot.
    """

    path: str
    methods: tuple[str, ...]
    model_in: Literal["json", "form", "query"]
    leased: bool
    generates: bool
    summary: str


def _text(path: str, summary: str) -> Endpoint:
    return Endpoint(path, ("POST",), "json", leased=True, generates=True, summary=summary)


def _post(path: str, summary: str, model_in: Literal["json", "form"] = "json") -> Endpoint:
    return Endpoint(path, ("POST",), model_in, leased=True, generates=False, summary=summary)


def _control(path: str, methods: tuple[str, ...], summary: str) -> Endpoint:
    return Endpoint(path, methods, "query", leased=False, generates=False, summary=summary)


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
    _control("/props", ("GET",), "Properties of the model's child"),
    _control("/slots", ("GET",), "Slots of the model's child"),
    _control("/lora-adapters", ("GET", "POST"), "LoRA adapters of the model's child"),
)


def dialect_of(path: str) -> Dialect:
    """The dialect in which errors on this path are told."""
    if _at(path, "/v1/messages"):
        return Dialect.ANTHROPIC
    return Dialect.RESPONSES if _at(path, "/v1/responses") else Dialect.OPENAI


def _at(path: str, root: str) -> bool:
    return path == root or path.startswith(root + "/")
