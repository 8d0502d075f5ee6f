"""A request's head."""

import pytest

from router.wire.message import header_lines, request_head


def test_the_head_says_what_it_was_given() -> None:
    lines = header_lines([(b"accept", b"*/*"), (b"connection", b"close")])
    head = request_head("POST", "/v1/x?y=%20", "127.0.0.1:8085", lines, 12)
    assert head == (
        b"POST /v1/x?y=%20 HTTP/1.1\r\nhost: 127.0.0.1:8085\r\naccept: */*\r\nconnection: close\r\n"
        b"content-length: 12\r\n\r\n"
    )


def test_only_a_get_without_a_body_names_no_length() -> None:
    assert request_head("GET", "/", "h", b"", 0) == b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"
    assert b"content-length: 0\r\n" in request_head("POST", "/", "h", b"", 0)
    assert b"content-length: 1\r\n" in request_head("GET", "/", "h", b"", 1)


@pytest.mark.parametrize("evil", ["\r\n", "\n", "\r", "\0", "a\r\nx: y", "\r\n\r\n"])
@pytest.mark.parametrize("where", ["method", "target", "host", "name", "value"])
def test_nothing_ends_a_line_early(where: str, evil: str) -> None:
    given = {"method": "POST", "target": "/", "host": "h", "name": "a", "value": "b"}
    given[where] += evil
    header = (given["name"].encode(), given["value"].encode())
    with pytest.raises(ValueError, match="line break"):
        request_head(given["method"], given["target"], given["host"], header_lines([header]), 0)


@pytest.mark.parametrize("target", ["/a b", "/ü"])
def test_a_target_is_percent_encoded(target: str) -> None:
    with pytest.raises(ValueError, match=r"ascii|space"):
        request_head("GET", target, "h", b"", 0)
