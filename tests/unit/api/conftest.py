"""A router on a socket, with a fake engine and a fake upstream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.site import Site, site


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as found:
        yield found
