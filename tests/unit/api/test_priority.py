"""Header and service tier become a class."""

import pytest

from router.api.named import by_name
from router.api.priority import priority_of
from router.core.types import Priority
from router.errors import InvalidRequest


@pytest.mark.parametrize(
    ("word", "priority"),
    [("high", 1), (" HIGH ", 1), ("1", 1), ("normal", 2), ("2", 2), ("Low", 3), ("\t3", 3)],
)
def test_words(word: str, priority: int) -> None:
    assert priority_of({b"x-request-priority": word.encode()}, "priority") is Priority(priority)


@pytest.mark.parametrize("word", [b"", b"urgent", b"0", b"4", "hïgh".encode(), b"high low"])
def test_anything_else_names_the_header(word: bytes) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Priority") as refusal:
        priority_of({b"x-request-priority": word})
    assert refusal.value.param == "X-Request-Priority"


@pytest.mark.parametrize(
    ("tier", "priority"),
    [("priority", 1), ("flex", 3), ("auto", 2), ("default", 2), (None, 2), (7, 2), ([], 2), ({}, 2)],
)
def test_the_service_tier_counts_without_a_header(tier: object, priority: int) -> None:
    assert priority_of({}, tier) is Priority(priority)


def test_two_of_them_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest, match="'low, high'; use one of"):
        priority_of(by_name([(b"x-request-priority", b"low"), (b"x-request-priority", b"high")]))
