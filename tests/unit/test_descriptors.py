"""The limit of open files."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from router.descriptors import connections_that_fit


@pytest.fixture(autouse=True)
def limit() -> Iterator[int]:
    """Half of what is possible; put back afterwards."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    hard = before[1] if before[1] != resource.RLIM_INFINITY else 65536
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard // 2, before[1]))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_it_is_left_alone_where_it_suffices(limit: int) -> None:
    assert connections_that_fit(10, requests=10) == 10
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit // 2


def test_it_is_raised_as_far_as_needed(limit: int) -> None:
    connections = limit // 2
    assert connections_that_fit(connections, requests=1) == connections
    assert limit // 2 < resource.getrlimit(resource.RLIMIT_NOFILE)[0] < limit


def test_what_does_not_fit_is_left_out(limit: int) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] == resource.RLIM_INFINITY:
        pytest.skip("everything fits")
    assert limit // 2 <= connections_that_fit(2 * limit, requests=100) < limit - 100
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == limit
