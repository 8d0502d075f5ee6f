"""A router on a socket: with a fake engine and a fake upstream, or on a board that shows what a test pins up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from router.api.app import create_app
from router.api.services import Services
from tests.fakes.board import Board, board_services, client_of
from tests.fakes.site import Site, site


@pytest.fixture
async def router(tmp_path: Path) -> AsyncIterator[Site]:
    async with site(tmp_path) as found:
        yield found


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.fixture
def services(board: Board, tmp_path: Path) -> Services:
    return board_services(board, tmp_path)


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(create_app(services)) as found:
        yield found
