from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.chaos.world import World, world

if sys.platform == "win32":
    collect_ignore_glob = ["*"]  # POSIX signals


@pytest.fixture(scope="module")
def anything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world of its own for each module; its tests leave it as they found it."""
    with world(tmp_path_factory.mktemp("chaos")) as found:
        yield found
