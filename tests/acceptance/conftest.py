"""Every case also checks that the router has come through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.observing import relayed
from tests.support.router import RunningRouter


@pytest.fixture(autouse=True)
def survives(running_router: RunningRouter) -> Iterator[None]:
    """The process lives on, answers, and has met nothing that it did not expect."""
    before = len(running_router.log)
    yield
    assert running_router.process.poll() is None, "the router ended"
    assert running_router.client.get("/health").status_code == 200
    assert "Traceback" not in running_router.log[before:]


@pytest.fixture
def nothing_forwarded(running_router: RunningRouter) -> Iterator[None]:
    """No request of the test has reached a model."""
    before = relayed(running_router)
    yield
    assert relayed(running_router) == before
