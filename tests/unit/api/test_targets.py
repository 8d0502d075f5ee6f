"""Request lines for upstreams."""

import pytest

from router.api.targets import target


@pytest.mark.parametrize(
    ("path", "query", "line"),
    [
        ("/v1/messages", b"beta=true", "/v1/messages?beta=true"),
        ("/v1/messages", b"", "/v1/messages"),
        ("/x", b"ticket=secret&a=1", "/x?a=1"),
        ("/x", b"%74icket=secret", "/x"),
        ("/x", b"a=%20+b&c", "/x?a=%20+b&c"),
        ("/x", b"a=b c\r\nd", "/x?a=b%20c%0D%0Ad"),
        ("/a b?c#d%41", b"", "/a%20b%3Fc%23d%2541"),
        ("/ünï", b"q=\xfc", "/%C3%BCn%C3%AF?q=%FC"),
    ],
)
def test_target(path: str, query: bytes, line: str) -> None:
    assert target(path, query) == line


def test_more_fields_may_be_the_routers_own() -> None:
    assert target("/props", b"model=m&a=1", dropped={"model"}) == "/props?a=1"
