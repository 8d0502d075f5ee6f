"""The hot path: a request goes to an upstream as it came, and the answer comes back as it comes.

The response's start is held until the first byte of its body is there, so that an upstream that dies before can still
be reported with a proper status.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass

import aiohttp
from yarl import URL

from router.engine.lease import Lease
from router.engine.ports import Upstream
from router.errors import UpstreamFailed
from router.proxy import headers
from router.proxy.answer import Answer
from router.proxy.complaint import translated
from router.proxy.dialect import Dialect, error_body
from router.proxy.usage import UsageTap

_CONNECT_SEC = 5.0
_LONGEST_ERROR = 1024 * 1024
# aiohttp warns about larger bodies handed over in one piece: the write would hold the loop.
_ONE_PIECE = 512 * 1024
# No limit in all: stalls and overlong generations are ended by the lease, which knows about the slot's progress.
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SEC)
_SKIPPED = ("User-Agent", "Accept", "Content-Type")


@dataclass(frozen=True, slots=True)
class Call:
    """A request on its way to an upstream.

    Attributes:
        target: path and query, percent-encoded.
        headers: the client's, names in lower case; an allow-list of them is passed on.
        content_type: replaces the client's when given.
        stream: the answer is expected to be a stream.
    """

    method: str
    target: str
    headers: Iterable[tuple[bytes, bytes]]
    body: bytes
    dialect: Dialect
    request_id: str
    content_type: str | None = None
    stream: bool = False


async def relay(upstream: Upstream, call: Call, answer: Answer, tap: UsageTap, lease: Lease | None = None) -> None:
    """Send `call` to `upstream` and its answer to `answer`, all but the answer's end, which `Answer.end` sends.

    The end is left to the caller, and with it the last chunk where it is known to be one, so that the slot is given
    back before a slow client has taken the last byte.
    Raises UpstreamFailed; whether the client has been told something is seen from `answer.started`.
    """
    if upstream.session.closed:
        raise UpstreamFailed("The model's server is being stopped; try again.", retry_after=1)
    try:
        response = await _first_try(upstream, call)
        if response is not None:
            await _passed(response, call, answer, tap, lease)
            return
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector) as fresh:
            await _passed(await _requested(fresh, upstream, call), call, answer, tap, lease)
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise _failure(error) from error


async def _first_try(upstream: Upstream, call: Call) -> aiohttp.ClientResponse | None:
    """The upstream's response head; None when a connection broke before any byte of it came.

    A second try wants a fresh connection: the usual cause is a kept one that the upstream was about to close.
    """
    try:
        return await _requested(upstream.session, upstream, call)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
        return None


async def _passed(
    response: aiohttp.ClientResponse, call: Call, answer: Answer, tap: UsageTap, lease: Lease | None
) -> None:
    try:
        if response.status >= 400:
            await _pass_error(response, call, answer)
        else:
            await _pass_body(response, answer, tap, lease)
        if lease is not None and response.content.at_eof():
            lease.finish()
    finally:
        response.close()  # a whole answer has handed its connection back by then, so this closes broken ones alone


async def _requested(session: aiohttp.ClientSession, upstream: Upstream, call: Call) -> aiohttp.ClientResponse:
    body = call.body if len(call.body) <= _ONE_PIECE else io.BytesIO(call.body)
    response = await session.request(
        call.method,
        URL(upstream.url + call.target, encoded=True),
        data=body or None,
        headers=headers.to_upstream(
            call.headers,
            authorization=upstream.authorization,
            content_type=call.content_type,
            close=call.stream,
        ),
        skip_auto_headers=_SKIPPED,
        allow_redirects=False,
        auto_decompress=False,
        timeout=_TIMEOUT,
    )
    connection = response.connection
    if response.content_type == "text/event-stream" and connection is not None and connection.protocol is not None:
        connection.protocol.force_close()
    return response


async def _pass_body(response: aiohttp.ClientResponse, answer: Answer, tap: UsageTap, lease: Lease | None) -> None:
    content = response.content
    chunk = await content.readany()
    await answer.start(response.status, headers.to_client(response.raw_headers))
    while chunk:
        tap.feed(chunk)
        if (answer.hold(chunk) if content.at_eof() else await answer.write(chunk)) and lease is not None:
            lease.progress()
        chunk = await content.readany()


async def _pass_error(response: aiohttp.ClientResponse, call: Call, answer: Answer) -> None:
    body = bytearray()
    while len(body) < _LONGEST_ERROR and (chunk := await response.content.readany()):
        body += chunk
    info = translated(response.status, bytes(body))
    told = error_body(info, call.dialect, call.request_id)
    found = [(b"content-type", b"application/json"), (b"content-length", str(len(told)).encode())]
    found += [(name.encode(), value.encode()) for name, value in info.headers.items()]
    await answer.start(info.status, found)
    answer.hold(told)


def _failure(error: Exception) -> UpstreamFailed:
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFailed("The model's server cannot be reached; it is being restarted. Try again.", retry_after=1)
    return UpstreamFailed("The model's server broke off its answer. Try again.", retry_after=1)
