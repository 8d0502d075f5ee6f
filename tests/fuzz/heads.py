"""Raw bytes around the grammar of HTTP/1.1: heads, framings, chunks and pipelines, nearly right."""

from __future__ import annotations

from random import Random

from tests.fuzz.exchanges import Target
from tests.fuzz.mutation import Mutator

_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "get", "PRI", "X" * 300, "")
_PATHS = (
    "/", "/health", "/v1/models", "/v1/chat/completions", "/v1/status", "/metrics", "/v1/embeddings", "/docs",
    "/openapi.json", "/v1/models/chat/status", "/v1/models/%2e%2e", "/upstream/chat/props", "/upstream/chat/../x",
    "/props?model=chat", "/slots?model=nope", "/%", "/%zz", "/%00", "//", "/a//b", "/?" + "x" * 9000, "*", "",
    "http://router/health", "http://[::1/health", "router:443", "/ü", "/v1/models/" + "a" * 5000, "/health#x",
    "?model=%ff",
)  # fmt: skip
_VERSIONS = ("HTTP/1.1",) * 8 + ("HTTP/1.0", "HTTP/2.0", "HTTP/9.9", "HTTP/1.", "http/1.1", "")
_LINES = (
    "content-length: 5", "content-length: 0", "content-length: -1", "content-length: 99999999999999999999",
    "content-length: 5, 5", "content-length: +5", "content-length: 0x5", "transfer-encoding: chunked",
    "transfer-encoding: gzip, chunked", "transfer-encoding: chunked, identity", "transfer-encoding : chunked",
    "transfer-encoding: xchunked", "connection: close", "connection: keep-alive", "connection: upgrade",
    "upgrade: websocket", "upgrade: h2c", "http2-settings: x", "expect: 100-continue", "expect: nonsense", "host: a",
    "host: ", "host: [::1", "content-encoding: gzip", "content-type: application/json",
    "content-type: multipart/form-data; boundary=x", "content-type: multipart/form-data", "x-request-id: \x01",
    "x-request-id: " + "y" * 500, "x-priority: high", "x-priority: nonsense", "authorization: Basic eDp5",
    "authorization: Bearer \xff", "authorization: Bearer", "x-api-key: ü", "origin: null",
    "origin: https://app.example", "access-control-request-method: GET", "cookie: a=b", "x: " + "z" * 20000,
    ": nameless", "no colon", " folded: line", "x\x00y: z", "x: a\rb", "range: bytes=0-1", "te: trailers",
    "accept: */*",
)  # fmt: skip
_BODIES = (
    b"", b"hello", b"{}", b'{"model":"chat","messages":[]}', b'{"model":"chat","prompt":"x","max_tokens":1}',
    b"5\r\nhello\r\n0\r\n\r\n", b"5\r\nhel", b"zz\r\n", b"ffffffffffffffffff\r\nx", b"-1\r\n",
    b"5;ext=\"x\"\r\nhello\r\n0\r\na: b\r\n\r\n",
    b"0\r\n\r\n", b"0\r\nx: " + b"y" * 70000 + b"\r\n\r\n", b"1\r\nx\r\n" * 500 + b"0\r\n\r\n",
    b'--x\r\ncontent-disposition: form-data; name="model"\r\n\r\nchat\r\n--x--\r\n', b"\x16\x03\x01\x02\x00",
    b"\r\n" * 20,
)  # fmt: skip
_ENDS = (b"\r\n",) * 9 + (b"\n", b"\r", b"")
_MOST_REQUESTS = 4


def draw(random: Random, target: Target) -> bytes:
    """A few requests on one connection, right, wrong, cut or torn."""
    said = b"".join(_request(random, target) for _ in range(random.choice((1, 1, 1, 2, _MOST_REQUESTS))))
    return Mutator(random).torn(said) if random.random() < 0.5 else said


def _request(random: Random, target: Target) -> bytes:
    method = random.choice(_METHODS) if random.random() < 0.3 else random.choice(("GET", "POST"))
    lines = [random.choice(_LINES) for _ in range(random.choice((0, 1, 2, 3, 60)))]
    head = target.head(method, random.choice(_PATHS), *lines)
    if random.random() < 0.2:
        head = head.replace(b"HTTP/1.1", random.choice(_VERSIONS).encode(), 1)
    body = random.choice(_BODIES)
    if random.random() < 0.5:
        head += b"content-length: %d\r\n" % len(body)
    return head + random.choice(_ENDS) + body
