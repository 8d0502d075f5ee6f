"""One connection against an upstream that may do anything."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.connection import Connection
from router.wire.pool import Pool
from tests.fakes.sink import RecordingSink
from tests.fakes.upstream import FakeUpstream, Heard, Script, Wire
from tests.support.waiting import turn, until

GET = b"GET /x HTTP/1.1\r\nhost: h\r\n\r\n"
HEAD = b"HEAD /x HTTP/1.1\r\nhost: h\r\n\r\n"
JSON = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 8\r\n\r\n{"a": 1}'


def post(length: int) -> bytes:
    return b"POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: %d\r\n\r\n" % length


def saying(*parts: bytes, then: Callable[[Wire], None] | None = None) -> Script:
    async def script(heard: Heard, wire: Wire) -> None:
        for part in parts:
            await wire.say(part)
        if then is not None:
            then(wire)

    return script


def close(wire: Wire) -> None:
    wire.writer.close()


async def asked(pool: Pool, head: bytes = GET, body: bytes = b"") -> tuple[Connection, RecordingSink]:
    """A request on a fresh connection, and its whole answer."""
    connection, sink = await pool.connect(), RecordingSink()
    connection.send(head, body, sink)
    await sink.ended()
    return connection, sink


# --- answers that are whole


async def test_an_answer_with_its_length(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(JSON)
    connection, sink = await asked(pool)
    assert sink.order == ["head", "body", "end"]
    assert sink.status == 200
    assert sink.headers == [(b"content-type", b"application/json"), (b"content-length", b"8")]
    assert sink.content == b'{"a": 1}'
    assert connection.reusable
    assert connection.used


async def test_the_request_arrives_as_it_was_given(fake: FakeUpstream, pool: Pool) -> None:
    for body in (b"", b"{}", b"x" * 3_000_000):
        _, sink = await asked(pool, post(len(body)), body)
        assert sink.status == 200
        assert fake.heard[-1].body == body
        assert fake.heard[-1].method == "POST"


async def test_chunks_of_one_read_are_one_piece(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")
    connection, sink = await asked(pool)
    assert sink.order == ["head", "body", "end"]
    assert sink.content == b"abcde"
    assert connection.reusable


async def test_pieces_come_as_they_are_read(fake: FakeUpstream, pool: Pool) -> None:
    heard = asyncio.Queue[None]()

    async def script(_: Heard, wire: Wire) -> None:
        await wire.begin_stream()
        for number in range(3):
            await wire.chunk(b"%d" % number)
            await heard.get()
        await wire.end_stream()

    fake.script = script
    connection, sink = await pool.connect(), RecordingSink()
    sink.on_body = lambda: heard.put_nowait(None)
    connection.send(GET, b"", sink)
    await sink.ended()
    assert sink.pieces == [b"0", b"1", b"2"]


async def test_an_answer_that_ends_with_the_connection(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nall of it", then=close)
    connection, sink = await asked(pool)
    assert (sink.outcome, sink.content) == ("end", b"all of it")
    assert not connection.reusable


@pytest.mark.parametrize("status", [b"000", b"099", b"104"])
async def test_a_body_without_a_head_is_no_answer(fake: FakeUpstream, pool: Pool, status: bytes) -> None:
    fake.script = saying(JSON.replace(b"200", status, 1))
    connection, sink = await asked(pool)
    assert sink.order == ["broke"]
    assert not connection.reusable


async def test_interim_answers_are_left_out(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + JSON)
    connection, sink = await asked(pool)
    assert sink.order == ["head", "body", "end"]
    assert [name for name, _ in sink.headers] == [b"content-type", b"content-length"]
    assert connection.reusable


async def test_trailers_are_left_out(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-trailer: 1\r\n\r\n")
    connection, sink = await asked(pool)
    assert sink.headers == [(b"transfer-encoding", b"chunked")]
    assert sink.content == b"a"
    fake.script = saying(JSON)
    again = RecordingSink()
    connection.send(GET, b"", again)
    await again.ended()
    assert [name for name, _ in again.headers] == [b"content-type", b"content-length"]


@pytest.mark.parametrize("more", [b"", b"content-length: 5\r\n"])
@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
async def test_some_answers_have_no_body(fake: FakeUpstream, pool: Pool, status: bytes, more: bytes) -> None:
    fake.script = saying(b"HTTP/1.1 " + status + b"\r\n" + more + b"\r\n")
    connection, sink = await asked(pool)
    assert sink.order == ["head", "end"]
    assert connection.reusable


@pytest.mark.parametrize("wrong", [b"", b"12345"])
async def test_an_answer_to_head_ends_with_its_head(fake: FakeUpstream, pool: Pool, wrong: bytes) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n" + wrong)
    connection, sink = await asked(pool, HEAD)
    assert sink.order == ["head", "end"]
    assert sink.headers == [(b"content-length", b"5")]
    assert not connection.reusable


async def test_one_connection_carries_many(fake: FakeUpstream, pool: Pool) -> None:
    connection = await pool.connect()
    for number in range(3):
        assert connection.used == (number > 0)
        sink = RecordingSink()
        connection.send(GET, b"", sink)
        assert not connection.reusable
        assert await sink.ended() == "end"
        assert connection.reusable
    assert fake.connections == 1


async def test_the_next_request_may_follow_from_within_the_end(fake: FakeUpstream, pool: Pool) -> None:
    connection, first, second = await pool.connect(), RecordingSink(), RecordingSink()
    first.on_end = lambda: connection.send(GET, b"", second)
    connection.send(GET, b"", first)
    assert await second.ended() == "end"


async def test_one_answer_at_a_time(fake: FakeUpstream, pool: Pool) -> None:
    connection = await pool.connect()
    connection.send(GET, b"", RecordingSink())
    with pytest.raises(RuntimeError, match="busy"):
        connection.send(GET, b"", RecordingSink())


# --- answers whose connection is not used again


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\na",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\naH",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nagarbage",
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 1\r\n\r\nagarbage",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n\0",
    ],
)
async def test_what_makes_a_connection_useless(fake: FakeUpstream, pool: Pool, answer: bytes) -> None:
    fake.script = saying(answer)
    connection, sink = await asked(pool)
    assert sink.outcome == "end"
    assert sink.content == b"a"
    assert not connection.reusable


async def test_garbage_between_requests_closes_the_connection(fake: FakeUpstream, pool: Pool) -> None:
    more = asyncio.Event()

    async def script(_: Heard, wire: Wire) -> None:
        await wire.say(JSON)
        await more.wait()
        await wire.say(JSON)
        await wire.peer_gone()

    fake.script = script
    connection, _ = await asked(pool)
    assert connection.reusable
    pool.give_back(connection)
    more.set()
    await until(lambda: fake.open == 0, deadline=2)  # it would expire in 4
    assert pool.idle() is None


async def test_an_early_answer_leaves_a_request_half_sent(fake: FakeUpstream, pool: Pool) -> None:
    """The upstream says no without reading, as a llama-server does to a body that is too large."""
    refusal = b"HTTP/1.1 413 Payload Too Large\r\ncontent-length: 2\r\n\r\nno"

    async def script(heard: Heard, wire: Wire) -> None:
        await wire.say(refusal)
        await wire.peer_gone()

    fake.script = script
    fake.reads_bodies = False
    connection, sink = await asked(pool, post(50_000_000), b"x" * 50_000_000)
    assert (sink.status, sink.content, sink.outcome) == (413, b"no", "end")
    assert not connection.reusable
    pool.give_back(connection)
    await until(lambda: fake.open == 0)


# --- an end before the end


@pytest.mark.parametrize("how", [close, Wire.cut, Wire.reset])
@pytest.mark.parametrize(
    ("said", "untouched"),
    [
        (b"", True),
        (b"HTTP/1.1 20", False),
        (b"HTTP/1.1 200 OK\r\ncontent-len", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", False),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", False),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nabc", False),
        (b"HTTP/1.1 100 Continue\r\n\r\n", False),
    ],
)
async def test_a_connection_that_ends_too_early(
    fake: FakeUpstream, pool: Pool, said: bytes, untouched: bool, how: Callable[[Wire], None]
) -> None:
    fake.script = saying(said, then=how)
    connection, sink = await asked(pool)
    assert sink.outcome == "broke"
    assert sink.error is not None
    assert sink.error.untouched is untouched
    assert "127.0.0.1:" in sink.reason
    assert not connection.reusable


async def test_a_reset_is_no_end_of_an_answer_without_a_length(fake: FakeUpstream, pool: Pool) -> None:
    resetting = asyncio.Event()

    async def script(_: Heard, wire: Wire) -> None:
        await wire.say(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await resetting.wait()
        wire.reset()

    fake.script = script
    connection, sink = await pool.connect(), RecordingSink()
    sink.on_body = resetting.set
    connection.send(GET, b"", sink)
    assert await sink.ended() == "broke"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"SSH-2.0-OpenSSH_9.9\r\n", []),
        (b"\0", []),
        (b"HTTP/3.7 200 OK\r\n\r\n", []),
        (b"HTTP/1.1 abc OK\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\nbad name: 1\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\nx: a\rb\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\nx: a\0b\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", []),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", ["head", "body"]),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcdef", ["head", "body"]),
    ],
)
async def test_what_is_no_http_breaks(fake: FakeUpstream, pool: Pool, said: bytes, told: list[str]) -> None:
    fake.script = saying(said)
    connection, sink = await asked(pool)
    assert sink.order == [*told, "broke"]
    assert "no HTTP" in sink.reason
    assert not connection.reusable
    await until(lambda: fake.open == 0)


@pytest.mark.parametrize("more", [b"", b"connection: upgrade\r\nupgrade: websocket\r\n"])
async def test_nobody_has_asked_for_another_protocol(fake: FakeUpstream, pool: Pool, more: bytes) -> None:
    fake.script = saying(b"HTTP/1.1 101 Switching Protocols\r\n" + more + b"\r\nxyz")
    _, sink = await asked(pool)
    assert sink.order == ["broke"]
    assert "changed the protocol" in sink.reason


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 300 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 1_000_000,
        b"HTTP/1.1 102 Processing\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\nx: " + b"y" * 1_000_000,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1;" + b"y" * 1_000_000,
    ],
)
async def test_headers_without_end_break(fake: FakeUpstream, pool: Pool, said: bytes) -> None:
    fake.script = saying(said)
    _, sink = await asked(pool)
    assert sink.outcome == "broke"
    assert "headers" in sink.reason
    assert sink.content == b""


async def test_headers_of_a_good_size_pass(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n" + b"x: %b\r\n" % (b"y" * 600) * 100 + b"\r\n")
    _, sink = await asked(pool)
    assert sink.order == ["head", "end"]
    assert len(sink.headers) == 101


async def test_a_connection_that_was_lost_before_the_request(fake: FakeUpstream, pool: Pool) -> None:
    connection, sink = await pool.connect(), RecordingSink()
    connection.abort()
    connection.send(GET, b"", sink)
    assert sink.order == ["broke"]
    assert sink.error is not None
    assert sink.error.untouched


# --- giving up


@pytest.mark.parametrize("at", ["head", "body", "end"])
async def test_after_an_abort_nothing_comes(fake: FakeUpstream, pool: Pool, at: str) -> None:
    fake.script = saying(JSON)
    connection = await pool.connect()

    class Leaving(RecordingSink):
        def _note(self, what: str) -> None:
            super()._note(what)
            if what == at:
                connection.abort()

    sink = Leaving()
    connection.send(GET, b"", sink)
    await until(lambda: at in sink.order)
    await until(lambda: fake.open == 0)
    assert sink.order[-1] == at
    assert not connection.reusable
    connection.abort()


async def test_an_abort_reaches_the_upstream_while_it_is_silent(fake: FakeUpstream, pool: Pool) -> None:
    fake.script = saying(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n")
    connection, sink = await pool.connect(), RecordingSink()
    connection.send(GET, b"", sink)
    await sink.head_told()
    connection.abort()
    await until(lambda: fake.open == 0)
    assert sink.order == ["head"]


# --- backpressure


async def test_a_pause_stops_the_upstream(fake: FakeUpstream, pool: Pool) -> None:
    size, said = 64 * 1024 * 1024, 0

    async def script(_: Heard, wire: Wire) -> None:
        nonlocal said
        await wire.say(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while said < size:
            await wire.say(bytes(65536))
            said += 65536

    fake.script = script
    connection, sink = await pool.connect(), RecordingSink()
    found = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]
    found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sink.on_body = connection.pause
    connection.send(GET, b"", sink)
    await until(lambda: bool(sink.pieces))
    before = -1
    while said != before:  # until the kernel's buffers are full
        before = said
        for _ in range(200):
            await turn()
    assert len(sink.content) <= 2 * 256 * 1024
    assert said < size
    connection.pause()
    sink.on_body = None
    connection.resume()
    connection.resume()
    assert await sink.ended() == "end"
    assert len(sink.content) == size


async def test_a_pause_ends_with_its_answer(fake: FakeUpstream, pool: Pool) -> None:
    """A kept connection must see its end."""

    async def script(_: Heard, wire: Wire) -> None:
        await wire.say(JSON)
        wire.writer.close()

    connection, sink = await pool.connect(), RecordingSink()
    fake.script = script
    sink.on_body = connection.pause
    sink.on_end = lambda: pool.give_back(connection)
    connection.send(GET, b"", sink)
    await sink.ended()
    await until(lambda: not connection.reusable, deadline=2)  # it would expire in 4
    assert pool.idle() is None


async def test_pausing_what_is_closed_does_nothing(fake: FakeUpstream, pool: Pool) -> None:
    connection = await pool.connect()
    connection.abort()
    connection.pause()
    connection.resume()
    await until(lambda: fake.open == 0)
    connection.pause()
    connection.resume()


async def test_nagle_is_off(fake: FakeUpstream, pool: Pool) -> None:
    connection = await pool.connect()
    found = connection._transport.get_extra_info("socket")  # type: ignore[union-attr]
    assert found.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# --- however it is cut into reads

ANSWERS = [
    JSON,
    (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"d\r\ndata: {one}\n\n\r\n10;ext=1\r\ndata: {another}\n\r\n0\r\nx-t: 1\r\n\r\n"
    ),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 Loading\r\ncontent-length: 3\r\nx-a:\r\n\r\nabc",
    b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
    b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc",
    b"HTTP/1.1 200 OK\r\nx y: 1\r\n\r\n",
]


class NoTransport(asyncio.Transport):
    """Where nothing is sent to and nothing comes from: the test plays the loop."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def abort(self) -> None:
        pass

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0


def fed(*reads: bytes) -> tuple[list[str], int, object, bytes, bool]:
    """What a sink gets to know of an answer that is read like this, and whether the connection can be used again."""
    connection, sink = Connection("h:1", lambda _: None), RecordingSink()
    connection.connection_made(NoTransport())
    connection.send(GET, b"", sink)
    for read in reads:
        if not sink.outcome:
            connection.data_received(read)
    if not sink.outcome:
        connection.eof_received()
    order = [what for number, what in enumerate(sink.order) if what != "body" or sink.order[number - 1] != "body"]
    return order, sink.status, sink.headers, sink.content, connection.reusable


@pytest.mark.parametrize("answer", ANSWERS)
async def test_any_two_reads_are_as_good_as_one(answer: bytes) -> None:
    at_once = fed(answer)
    for cut in range(1, len(answer)):
        assert fed(answer[:cut], answer[cut:]) == at_once


@pytest.mark.parametrize("answer", ANSWERS)
async def test_byte_by_byte_is_as_good_as_at_once(answer: bytes) -> None:
    assert fed(*(bytes([byte]) for byte in answer)) == fed(answer)


@given(st.sampled_from(ANSWERS), st.lists(st.integers(1, 200), max_size=12))
def test_any_reads_are_as_good_as_one(answer: bytes, cuts: list[int]) -> None:
    places = sorted({0, len(answer), *(cut for cut in cuts if cut < len(answer))})
    reads = [answer[a:b] for a, b in pairwise(places)]
    assert fed(*reads) == fed(answer)


async def test_too_long_a_head_breaks_in_one_read_as_well() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: " + b"y" * 66_000 + b"\r\n\r\n"
    assert fed(head) == fed(head[:1000], head[1000:]) == (["broke"], 0, [], b"", False)


async def test_a_long_body_may_have_much_framing() -> None:
    chunk = [b"1;" + b"x" * 1000 + b"\r\n", b"a\r\n"]
    reads = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", *(chunk * 100), b"0\r\n\r\n"]
    order, _, _, content, reusable = fed(*reads)
    assert (order, content, reusable) == (["head", "body", "end"], b"a" * 100, True)


# --- sinks that raise


class RaisingSink(RecordingSink):
    """Raises in one of its calls, before it has noted it."""

    def __init__(self, call: str) -> None:
        super().__init__()
        self.call = call

    def _note(self, what: str) -> None:
        if what == self.call:
            raise ValueError(what)
        super()._note(what)


UNTIL_EOF = b"HTTP/1.1 200 OK\r\n\r\nrest"


@pytest.mark.parametrize("answer", [JSON, UNTIL_EOF])
@pytest.mark.parametrize("call", ["head", "body", "end"])
async def test_a_sink_that_raises_is_told_that_its_answer_is_broken(
    call: str, answer: bytes, fake: FakeUpstream, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    fake.script = saying(answer, then=close)
    connection, sink = await pool.connect(), RaisingSink(call)
    connection.send(GET, b"", sink)
    assert await sink.ended() == "broke"
    assert sink.error is not None
    assert not sink.error.untouched
    assert not connection.reusable
    assert "could not be taken" in caplog.text
    assert "ValueError" in caplog.text


async def test_a_sink_that_cannot_even_hear_of_a_break_keeps_no_connection_open(
    fake: FakeUpstream, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    fake.script = saying(JSON[:-3], then=close)
    lost: list[Connection] = []
    sink = RaisingSink("broke")
    connection = Connection("here", lost.append)
    where = ("127.0.0.1", pool._port)
    transport, _ = await asyncio.get_running_loop().create_connection(lambda: connection, *where)
    connection.send(GET, b"", sink)
    await until(lambda: bool(lost))
    assert transport.is_closing()
    assert "Nobody could be told" in caplog.text
