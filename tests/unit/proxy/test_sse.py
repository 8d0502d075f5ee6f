"""Between two events or inside of one; content or a ping."""

import pytest

from router.proxy.sse import EventBoundary


@pytest.mark.parametrize(
    ("chunks", "between"),
    [
        ([], True),
        ([b"data: 1\n\n"], True),
        ([b"data: 1\r\n\r\n"], True),
        ([b"data: 1\n", b"\n"], True),
        ([b"data: 1\r", b"\n", b"\r", b"\n"], True),
        ([b"data: 1\n"], False),
        ([b"data: 1\n\nda"], False),
        ([b"data: 1\n\n", b"d"], False),
    ],
)
def test_boundary(chunks: list[bytes], between: bool) -> None:
    boundary = EventBoundary()
    for chunk in chunks:
        boundary.feed(chunk)
    assert boundary.between_events is between


@pytest.mark.parametrize(
    ("chunks", "content"),
    [
        ([b":\n\n"], False),
        ([b": ping\n\n"], False),
        ([b":\n\n:\n\n"], False),
        ([b":\n\ndata: 1\n\n"], True),
        ([b"data: 1\n\n"], True),
        ([b"data", b': {"a":1}\n\n'], True),
    ],
)
def test_pings_are_no_content(chunks: list[bytes], content: bool) -> None:
    boundary = EventBoundary()
    *before, last = chunks
    for chunk in before:
        boundary.feed(chunk)
    assert boundary.feed(last) is content
