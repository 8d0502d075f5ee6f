"""Addresses of media are found whatever a document looks like, and nothing else is taken for one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.api.condense import condensed
from router.api.media import refuse_remote_media
from router.config import ApiConfig, ModelConfig
from router.errors import InvalidRequest, RemoteMediaRefused
from tests.fakes.site import site

ADDRESS = "http://192.0.2.1/cat.png"
DATA = "data:image/png;base64,AAAA"
PICTURE = {"type": "image_url", "image_url": {"url": ADDRESS}}
OWN_PICTURE = {"type": "image_url", "image_url": {"url": DATA}}


def chat(*parts: Any) -> dict[str, Any]:
    return {"model": "chat", "messages": [{"role": "user", "content": list(parts)}]}


def place(document: Any) -> str | None:
    """Where an address is found; None if the document is let through."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    try:
        refuse_remote_media(text)
    except RemoteMediaRefused as error:
        return error.param
    return None


@pytest.mark.parametrize(
    ("part", "where"),
    [
        (PICTURE, ".image_url.url"),
        ({"type": "image_url", "image_url": {"url": "https://192.0.2.1/"}}, ".image_url.url"),
        ({"type": "image_url", "image_url": ADDRESS}, ".image_url"),
        ({"type": "input_image", "image_url": ADDRESS}, ".image_url"),
        ({"type": "input_audio", "input_audio": {"data": ADDRESS, "format": "wav"}}, ".input_audio.data"),
        ({"type": "input_audio", "input_audio": {"data": None, "url": ADDRESS}}, ".input_audio.url"),
        ({"type": "input_video", "input_video": {"data": ADDRESS}}, ".input_video.data"),
        ({"type": "video_url", "video_url": {"url": ADDRESS}}, ".video_url.url"),
        ({"type": "image", "source": {"type": "url", "url": ADDRESS}}, ".source.url"),
        ({"type": "tool_result", "content": [{"type": "image", "source": {"url": ADDRESS}}]}, ".content[0].source.url"),
    ],
)
def test_each_kind_of_part(part: dict[str, Any], where: str) -> None:
    assert place(chat({"type": "text", "text": "Look."}, part)) == f"messages[0].content[1]{where}"


@pytest.mark.parametrize(
    "document",
    [
        {"input": [{"type": "function_call_output", "output": [{"type": "input_image", "image_url": ADDRESS}]}]},
        {"content": {"content": [PICTURE]}},
        {"input": [[{"content": [PICTURE]}]]},
        [PICTURE],
        b"\xef\xbb\xbf" + json.dumps(chat(PICTURE)).encode(),
        b'{"a":{"type":"text","type":"image_url","image_url":{"url":"data:","url":"http://192.0.2.1/"}}}',
        b'{"a":{"type":"image_url","image_url":{},"image_url" :\n{"url":\t"http:\\/\\/192.0.2.1/"}}}',
    ],
)
def test_each_place_and_spelling(document: Any) -> None:
    assert place(document) is not None


@given(st.lists(st.sampled_from(["as it is", "escaped", "ESCAPED"]), min_size=20))
def test_escapes_hide_nothing(ways: list[str]) -> None:
    spelled = {"as it is": "{}", "escaped": "\\u{:04x}", "ESCAPED": "\\u{:04X}"}

    def text(value: str) -> str:
        chosen = [spelled[ways[n % len(ways)]] for n in range(len(value))]
        return (
            '"'
            + "".join(way.format(char if way == "{}" else ord(char)) for way, char in zip(chosen, value, strict=True))
            + '"'
        )

    part = f"{{{text('type')}:{text('image_url')},{text('image_url')}:{{{text('url')}:{text(ADDRESS)}}}}}"
    document = f'{{"messages":[{{"content":[{part}]}}]}}'
    assert json.loads(document)["messages"][0]["content"] == [PICTURE]
    assert place(document.encode()) == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize(
    "document",
    [
        chat(OWN_PICTURE, {"type": "text", "text": ADDRESS}),
        chat(OWN_PICTURE, {"type": "text", "text": json.dumps(PICTURE)}),
        chat(OWN_PICTURE, {"type": "tool_use", "input": {"url": ADDRESS, "image_url": ADDRESS}}),
        chat({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}, ADDRESS),
        chat({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, ADDRESS),
        chat({"type": "image_url", "image_url": {"url": "HTTP://192.0.2.1/"}}, ADDRESS),  # base64 to llama-server
        {**chat(OWN_PICTURE), "tools": [{"function": {"parameters": {"properties": {"image_url": ADDRESS}}}}]},
        {**chat(OWN_PICTURE), "user": ADDRESS, "type": 1, "image_url": None},
        b'{"a":{"type":"image_url","type":"text","image_url":{"url":"http://192.0.2.1/"}}}',
        b'{"a":{"type":"image_url","image_url":{"url":"http://192.0.2.1/","url":"data:"}}}',
        b"",
        b"no JSON at all",
    ],
)
def test_what_is_let_through(document: Any) -> None:
    assert place(document) is None


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(chat(PICTURE)).encode()[:-1],
        b"[" * 3000 + b"]" * 3000 + json.dumps(PICTURE).encode(),
        b'{"a":' + b"[" * 3000 + b"]" * 3000 + b"," + json.dumps(PICTURE).encode()[1:],
        b'{"a":[' + b"0," * 250_000 + b"0]," + json.dumps(PICTURE).encode()[1:],
        b'{"a":"\xff",' + json.dumps(PICTURE).encode()[1:],
        b'{"a":' + b"9" * 5000 + b"," + json.dumps(PICTURE).encode()[1:],
    ],
    ids=["cut", "not one", "deep", "many", "not UTF-8", "long"],
)
def test_what_cannot_be_read_to_the_end_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="cannot be looked through"):
        refuse_remote_media(text)


async def test_pictures_that_are_skipped_hide_nothing() -> None:
    long = {"type": "image_url", "image_url": {"url": DATA + "A" * 2_000_000}}
    text = await condensed(json.dumps(chat(long, PICTURE, long)).encode())
    assert place(text) == "messages[0].content[1].image_url.url"


def test_a_place_has_a_bounded_name() -> None:
    assert len(place({"x" * 10_000: PICTURE}) or "") == 200


@pytest.mark.parametrize(
    ("fields", "sees"),
    [
        ({}, False),
        ({"flags": ["-c", "512", "--no-mmproj-offload"]}, False),
        ({"flags": ["--mmproj", "x.gguf"]}, True),
        ({"flags": ["-mm", "x.gguf"]}, True),
        ({"flags": ["--mmproj=x.gguf"]}, True),
        ({"flags": ["--mmproj_url", "x"]}, True),
        ({"flags": ["-mmu", "x"]}, True),
        ({"env": {"LLAMA_ARG_MMPROJ": "x.gguf"}}, True),
        ({"env": {"llama_arg_mmproj_url": "x"}}, True),
    ],
)
def test_who_sees(fields: dict[str, Any], sees: bool) -> None:
    assert ModelConfig.model_validate({"model_path": "x.gguf", **fields}).has_projector is sees


ROUTES = {
    "/v1/chat/completions": chat(PICTURE),
    "/v1/messages": chat({"type": "image", "source": {"type": "url", "url": ADDRESS}}),
    "/v1/responses": {"model": "chat", "input": [{"content": [{"type": "input_image", "image_url": ADDRESS}]}]},
    "/v1/embeddings": {"model": "chat", "input": {"content": [PICTURE]}},
    "/apply-template": chat(PICTURE),
    "/upstream/chat/v1/chat/completions": chat(PICTURE),
    "/upstream/chat/chat/completions": chat(PICTURE),
    "/upstream/chat//v1/chat/completions": chat(PICTURE),
    "/upstream/chat/anything": chat(PICTURE),
}


@pytest.mark.parametrize(("path", "document"), ROUTES.items(), ids=ROUTES)
async def test_no_route_lets_them_through(path: str, document: dict[str, Any], tmp_path: Path) -> None:
    async with site(tmp_path, flags=("--mmproj", "x.gguf")) as found:
        answer = await found.client.post(path, json=document)
        error = answer.json()["error"]
        assert answer.status_code == 400
        assert error["message"].startswith("Media are not fetched")
        assert "api.allow_remote_media" in error["message"]
        if not path.startswith("/v1/messages"):
            assert error["code"] == "remote_media_refused"
            assert error["param"].endswith(("image_url", "image_url.url"))
        assert found.upstream.heard == []
        assert found.engine.granted == []


@pytest.mark.parametrize(
    ("flags", "allowed"), [((), False), (("--mmproj", "x.gguf"), True)], ids=["no projector", "allowed"]
)
async def test_where_nothing_is_refused(flags: tuple[str, ...], allowed: bool, tmp_path: Path) -> None:
    async with site(tmp_path, flags=flags, api=ApiConfig(allow_remote_media=allowed)) as found:
        answer = await found.client.post("/v1/chat/completions", json=chat(PICTURE))
        assert answer.status_code == 200
