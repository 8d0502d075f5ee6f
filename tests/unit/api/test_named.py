"""Headers by their names."""

from router.api.named import by_name, named


def test_what_is_repeated_becomes_a_list() -> None:
    told = [(b"accept", b"a"), (b"host", b"h"), (b"accept", b"b"), (b"accept", b"")]
    assert by_name(told) == {b"accept": b"a, b, ", b"host": b"h"}


def test_they_are_put_together_once() -> None:
    scope = {"headers": [(b"host", b"h")]}
    assert named(scope) == {b"host": b"h"}
    assert named(scope) is named(scope)
