"""The model's name inside a multipart form."""

from __future__ import annotations

import asyncio

import pytest

from router.api.form import field_of
from router.errors import InvalidRequest

TYPE = 'multipart/form-data; boundary="x"'


def form(*parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        b"--x\r\nContent-Disposition: form-data; %s\r\n\r\n%s\r\n" % (head.encode(), value) for head, value in parts
    )
    return body + b"--x--\r\n"


async def test_the_field_is_found_among_others() -> None:
    body = form(('name="file"; filename="a.wav"', b"\r\n--y\r\n\0" * 999), ('name="model"', "ünï".encode()))
    assert await field_of(body, TYPE, "model") == "ünï"


async def test_the_first_one_counts() -> None:
    assert await field_of(form(('name="model"', b"a"), ('name="model"', b"b")), TYPE, "model") == "a"


async def test_none_when_it_is_not_there() -> None:
    assert await field_of(form(('name="file"', b"model")), TYPE, "model") is None


async def test_an_empty_one_is_empty() -> None:
    assert await field_of(form(('name="model"', b"")), TYPE, "model") == ""


async def test_a_huge_value_is_not_collected() -> None:
    found = await field_of(form(('name="model"', b"a" * 10_000_000)), TYPE, "model")
    assert found is not None


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"{}", "application/json"),
        (b"{}", ""),
        (b"", "multipart/form-data"),
        (b"nonsense", TYPE),
        (b"--x--", "multipart/form-data; boundary=" + "x" * 300),
    ],
)
async def test_what_is_no_form_is_refused(body: bytes, kind: str) -> None:
    with pytest.raises(InvalidRequest):
        await field_of(body, kind, "model")


@pytest.mark.parametrize(
    "body",
    [b"--x\r\na: b\r\n\r\n\r\n" * 100_000, b"--x\r\n" + b"a: b\r\n" * 100_000, b"--x\r\na: " + b"b" * 100_000],
    ids=["parts", "headers", "one header"],
)
async def test_too_many_headers_are_not_read_to_the_end(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=r"more than|Maximum"):
        await field_of(body, TYPE, "model")


async def test_others_have_their_turn_meanwhile() -> None:
    turns, loop, over = 0, asyncio.get_running_loop(), asyncio.Event()

    def other() -> None:
        nonlocal turns
        turns += 1
        if not over.is_set():
            loop.call_soon(other)

    loop.call_soon(other)
    await field_of(form(('name="file"', bytes(1024 * 1024)), ('name="model"', b"a")), TYPE, "model")
    over.set()
    assert turns > 10
