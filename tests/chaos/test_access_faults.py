"""What strangers may try at the door, through a real socket: nothing of it gets in, into a log line, or out again."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from router.telemetry.logs import LineFormatter
from tests.fakes.site import Site, site

KEY = "a-key-of-this-test"
LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (DEBUG|INFO|WARNING|ERROR) +\S+  .*|    .*")
_WORD = r'(?:[\x21\x23-\x7e]+|"(?:[^"\\]|\\.)*")'
ACCESS = re.compile(
    rf".* router\.access  (client={_WORD} )?method=[A-Z-]+ path={_WORD} status=\d+ ms=[\d.]+ model={_WORD} bytes=\d+ "
    r"id=[\x21-\x7e]+ key=[\w.-]+"
)
FORGED = "2026-01-01 00:00:00.000 INFO    router.access  method=GET path=/forged status=200"
EVIL = (
    f"a\n{FORGED}",
    f"a\r\n{FORGED}",
    f"\x1b[2J\x1b[31m{FORGED}",
    f"a\u2028{FORGED}",
    f"a\u2029{FORGED}",
    f"a\x85{FORGED}",
    "a\u202egpj.exe",
    "\x00\x07\x08\x7f\x9b31m",
    'a" status=200 model=forged "',
    "%0a%0d%1b",
    "${jndi:ldap://evil}%s%(name)s{0}",
)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that is logged on whatever level, as it would be written."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(LineFormatter(colour=False))
    root, level = logging.getLogger(), logging.getLogger().level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def check(written: str) -> None:
    """Each line begins as the router's do, and holds nothing that a terminal or a reader would obey."""
    for line in written.split("\n")[:-1]:
        assert LINE.fullmatch(line), line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", line), line
        assert not line.startswith(FORGED[:30]), line


PLACES = ("/{}", "/v1/models/{}", "/v1/models/{}/status", "/upstream/{}/x", "/upstream/chat/{}", "/props?model={}")


async def attack(router: Site, text: str) -> None:
    """The text in every place of a request that it can be sent in."""
    raw = text.encode("utf-8", "surrogatepass")
    value = re.sub(rb"[\x00\r\n]", b" ", raw)
    names = (b"user-agent", b"x-request-id", b"x-request-priority", b"referer", b"x-x")
    headers = b"".join(b"%b: %b\r\n" % (name, value) for name in names)
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/models/load", "/v1/models/eject"):
        for model, more in ((text, b""), ("chat", headers)):
            body = {"model": model, "messages": [{"role": text, "content": text}], "user": text, text: text}
            await say(router, f"POST {path}".encode(), more, json.dumps(body).encode())
    for place in PLACES:
        target = b"GET " + place.format(quote(text, safe="")).encode()
        await say(router, target, b"")
        await say(router, target, b"authorization: Bearer " + value + b"\r\n", key=b"wrong")
    for first in (b"GET /" + raw, raw + b" /", b"GET / HTTP/1.1\r\n" + raw + b": x\r\nx: "):
        await say(router, first, b"")


async def say(router: Site, first: bytes, headers: bytes, body: bytes = b"", *, key: bytes = KEY.encode()) -> None:
    told = b"host: localhost\r\nconnection: close\r\nx-api-key: %b\r\ncontent-length: %d\r\n" % (key, len(body))
    assert await router.address.say(first + b" HTTP/1.1\r\n" + told + headers + b"\r\n" + body)


@pytest.mark.parametrize("text", EVIL)
async def test_no_field_of_a_request_forges_a_line(text: str, tmp_path: Path, log: io.StringIO) -> None:
    async with site(tmp_path, api_key=KEY) as router:
        await attack(router, text)
        router.log.flush()
        written = router.written.getvalue()
        assert len(written.splitlines()) >= 10
        check(written)
        assert [line for line in written.splitlines() if not ACCESS.fullmatch(line)] == []
    ours = [line for line in log.getvalue().split("\n") if " router." in line]
    check("\n".join([*ours, ""]))


@pytest.mark.parametrize(
    "text", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{1337*1337}}", "${1337*1337}"]
)
async def test_no_field_of_a_request_becomes_markup(text: str, tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as router:
        for path in ("/{}", "/v1/models/{}", "/upstream/{}/x", "/docs/{}", "/docs?{}"):
            answer = await router.client.get(path.format(quote(text, safe="")), headers={"x-api-key": KEY})
            assert "1787569" not in answer.text
            if "html" in answer.headers["content-type"]:
                assert text not in answer.text
            else:
                assert answer.headers["content-type"] == "application/json"
        answer = await router.client.post("/v1/chat/completions", json={"model": text}, headers={"x-api-key": KEY})
        assert answer.headers["content-type"] == "application/json"


CLIMBING = (
    "../../etc/passwd",
    "/etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "chat/../../x",
    "file:///etc/passwd",
    "chat\x00.gguf",
)


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("name", CLIMBING)
async def test_a_models_name_is_never_a_path(name: str, tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as router:
        before = files(tmp_path)
        for path in ("/v1/chat/completions", "/v1/models/load", "/v1/models/eject"):
            answer = await router.client.post(path, json={"model": name}, headers={"x-api-key": KEY})
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
        for path in ("/v1/models/{}", "/v1/models/{}/status", "/upstream/{}/props"):
            answer = await router.client.get(path.format(quote(name, safe="")), headers={"x-api-key": KEY})
            assert answer.status_code == 404
        assert router.engine.loaded == []
        assert router.upstream.heard == []
        assert files(tmp_path) == before


HEADERS = (
    b"",
    b"authorization:\r\n",
    b"authorization: Bearer\r\n",
    b"authorization: Bearer \r\n",
    b"authorization: Bearer wrong\r\n",
    b"authorization: Basic " + KEY.encode() + b"\r\n",
    b"authorization: " + KEY.encode() + b"\r\n",
    b"authorization: Bearer \xff\xfe\x80\r\n",
    "authorization: Bearer schlüssel-模型\r\n".encode(),
    b"authorization: Bearer wrong\r\nauthorization: Bearer wrong\r\nx-api-key: wrong\r\n",
    b"x-api-key: " + b"k" * 8000 + b"\r\n",
    b"x-api-key:" + b"\t" * 50 + b"\r\n",
)


@pytest.mark.parametrize("path", [b"/v1/models", b"/nowhere", b"/v1/models/eject", b"/upstream/x/slots", b"/metrics"])
async def test_whoever_has_no_key_gets_one_and_the_same_401(path: bytes, tmp_path: Path) -> None:
    async with site(tmp_path, api_key=KEY) as router:
        told = set()
        first = b"GET " + path + b" HTTP/1.1\r\nhost: x\r\nx-request-id: 1\r\nconnection: close\r\n"
        for headers in HEADERS:
            told.add(re.sub(rb"date: [^\r]+\r\n", b"", await router.address.say(first + headers + b"\r\n")))
        (answer,) = told
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"www-authenticate: Bearer\r\n" in answer
        assert router.upstream.heard == []
