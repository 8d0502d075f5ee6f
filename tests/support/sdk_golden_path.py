"""What a newcomer does with openai-python, as one script that runs with any version of it.

    BASE_URL=http://127.0.0.1:8000/v1 API_KEY=… CHAT_MODEL=chat EMBEDDING_MODEL=embed python sdk_golden_path.py

Prints the version of the SDK. Fails with an AssertionError.
"""

from __future__ import annotations

import json
import os
import sys

import openai


def golden_path(*, base_url: str, api_key: str, chat_model: str, embedding_model: str) -> None:
    """Chat, stream, tools, embeddings, models, a wrong model, a wrong key."""
    with openai.OpenAI(base_url=base_url, api_key=api_key) as client:
        chat(client, chat_model)
        stream(client, chat_model)
        tools(client, chat_model)
        embeddings(client, embedding_model)
        models(client, chat_model)
        wrong_model(client)
    with openai.OpenAI(base_url=base_url, api_key="wrong") as client:
        wrong_key(client, chat_model)


def chat(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model, max_tokens=4, messages=[{"role": "user", "content": "Who are you?"}]
    )
    assert answer.object == "chat.completion"
    assert answer.model == model
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    assert answer._request_id


def stream(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(
        model=model,
        max_tokens=8,
        messages=[{"role": "user", "content": "Who are you?"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as chunks:
        got = list(chunks)
    assert {chunk.model for chunk in got} == {model}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in got if chunk.choices)
    assert [chunk.choices[0].finish_reason for chunk in got if chunk.choices][-1] == "length"
    assert got[-1].usage is not None
    assert got[-1].usage.completion_tokens == 8


def tools(client: openai.OpenAI, model: str) -> None:
    """The arguments of a call come in pieces."""
    parameters: dict[str, object] = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris"]}},
        "required": ["city"],
    }
    with client.chat.completions.create(
        model=model,
        max_tokens=300,
        temperature=0,
        messages=[{"role": "user", "content": "How is the weather?"}],
        stream=True,
        tools=[{"type": "function", "function": {"name": "weather", "parameters": parameters}}],
        tool_choice="required",
        logit_bias={"{": 100},  # so that a model of random letters begins the call
    ) as chunks:
        choices = [choice for chunk in chunks for choice in chunk.choices]
    deltas = [delta for choice in choices for delta in choice.delta.tool_calls or []]
    calls = [delta.function for delta in deltas if delta.function is not None]
    assert len(calls) > 1, "one delta is none"
    assert deltas[0].id
    assert calls[0].name == "weather"
    assert json.loads("".join(call.arguments or "" for call in calls)) == {"city": "Paris"}
    assert choices[-1].finish_reason == "tool_calls"


def embeddings(client: openai.OpenAI, model: str) -> None:
    """By default the SDK asks for base64, and decodes it."""
    packed = client.embeddings.create(model=model, input=["one", "two"])
    plain = client.embeddings.create(model=model, input=["one", "two"], encoding_format="float")
    assert packed.model == model
    assert [entry.index for entry in packed.data] == [0, 1]
    for entry, other in zip(packed.data, plain.data, strict=True):
        assert len(entry.embedding) == len(other.embedding) > 1
        assert all(abs(a - b) < 1e-5 for a, b in zip(entry.embedding, other.embedding, strict=True))
    assert packed.data[0].embedding != packed.data[1].embedding


def models(client: openai.OpenAI, model: str) -> None:
    assert model in [entry.id for entry in client.models.list()]
    assert client.models.retrieve(model).id == model


def wrong_model(client: openai.OpenAI) -> None:
    error = refusal(client, "nope")
    assert isinstance(error, openai.NotFoundError)
    assert error.code == "model_not_found"
    assert error.param == "model"
    assert "nope" in error.message
    assert error.request_id


def wrong_key(client: openai.OpenAI, model: str) -> None:
    error = refusal(client, model)
    assert isinstance(error, openai.AuthenticationError)
    assert error.code == "invalid_api_key"


def refusal(client: openai.OpenAI, model: str) -> openai.APIStatusError:
    try:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hi"}])
    except openai.APIStatusError as error:
        return error
    raise AssertionError("answered though it should not be")


if __name__ == "__main__":
    golden_path(
        base_url=os.environ["BASE_URL"],
        api_key=os.environ["API_KEY"],
        chat_model=os.environ["CHAT_MODEL"],
        embedding_model=os.environ["EMBEDDING_MODEL"],
    )
    sys.stdout.write(openai.__version__)
