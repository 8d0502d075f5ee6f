"""Everything here runs on both event loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from router.wire.pool import Pool
from tests.fakes.upstream import FakeUpstream


@pytest.fixture(
    scope="module", params=[pytest.param(False, id="asyncio"), pytest.param(True, id="uvloop")], autouse=True
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def fake() -> FakeUpstream:
    return FakeUpstream()


@pytest.fixture
async def pool(fake: FakeUpstream) -> AsyncIterator[Pool]:
    async with fake.serving() as upstream:
        yield upstream.pool
