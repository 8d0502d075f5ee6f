"""What crosses the router, and what does not."""

from router.proxy.headers import lines_to_upstream, to_client, to_upstream


def test_only_what_the_upstream_reads_goes_there() -> None:
    client = {
        b"host": b"router",
        b"authorization": b"Bearer clients-key",
        b"x-api-key": b"clients-key",
        b"cookie": b"a=b",
        b"x-forwarded-for": b"10.0.0.1",
        b"x-conversation-id": b"7",
        b"anthropic-version": b"2023-06-01",
        b"accept": b"text/event-stream",
    }
    assert to_upstream(client, authorization="Bearer child", content_type="application/json", close=False) == [
        (b"accept", b"text/event-stream"),
        (b"anthropic-version", b"2023-06-01"),
        (b"accept-encoding", b"identity"),
        (b"authorization", b"Bearer child"),
        (b"content-type", b"application/json"),
    ]


def test_a_stream_asks_for_a_connection_of_its_own() -> None:
    assert to_upstream({}, authorization="", content_type=None, close=True) == [
        (b"accept-encoding", b"identity"),
        (b"connection", b"close"),
    ]


def test_oversized_and_odd_values_stay_here() -> None:
    client = {b"accept": b"a" * 5000, b"anthropic-beta": "ü".encode()}
    assert to_upstream(client, authorization="", content_type=None, close=False) == [(b"accept-encoding", b"identity")]


def test_the_content_type_may_be_replaced() -> None:
    client = {b"content-type": b"application/json", b"accept": b"a, b"}
    found = to_upstream(client, authorization="", content_type="text/plain", close=False)
    assert found == [(b"accept", b"a, b"), (b"content-type", b"text/plain"), (b"accept-encoding", b"identity")]


def test_a_multipart_content_type_keeps_its_boundary() -> None:
    client = {b"content-type": b"multipart/form-data; boundary=x"}
    found = to_upstream(client, authorization="", content_type=None, close=False)
    assert (b"content-type", b"multipart/form-data; boundary=x") in found


def test_as_bytes_they_are_those_of_the_request_at_hand() -> None:
    for accept in (b"text/event-stream", b"*/*", b"text/event-stream"):
        found = lines_to_upstream(
            {b"cookie": b"a", b"accept": accept},
            authorization="Bearer child",
            content_type="text/plain",
            close=True,
        )
        assert found == (
            b"accept: " + accept + b"\r\naccept-encoding: identity\r\nauthorization: Bearer child\r\n"
            b"content-type: text/plain\r\nconnection: close\r\n"
        )


def test_hop_by_hop_headers_and_the_upstreams_own_words_end_here() -> None:
    upstream = [
        (b"connection", b"keep-alive, X-Private"),
        (b"keep-alive", b"timeout=5"),
        (b"x-private", b"1"),
        (b"server", b"llama.cpp"),
        (b"access-control-allow-origin", b""),
        (b"content-type", b"application/json"),
        (b"content-length", b"2"),
    ]
    assert to_client(upstream) == [(b"content-type", b"application/json"), (b"content-length", b"2")]


def test_a_length_beside_chunks_is_dropped() -> None:
    assert to_client([(b"transfer-encoding", b"chunked"), (b"content-length", b"2")]) == []
