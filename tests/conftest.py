"""Fixtures that every kind of test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.models import TOOLS, Models, make_models
from tests.support.router import RunningRouter, router


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The files of small real models."""
    return make_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def running_router(models: Models, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningRouter]:
    """A router with a key and real models, shared by tests that leave it as they found it."""
    configured = {
        "chat": models.entry("chat", *TOOLS, aliases=["gpt-4o-mini"]),
        "org/chatter:q4": models.entry("chatter"),
        "ünï 模型": models.entry("chat"),
        "embed": models.entry("embed"),
        "corrupt": models.entry("corrupt"),
    }
    with router(
        tmp_path_factory.mktemp("router"),
        configured,
        api={"cors_origins": ["https://app.example"]},
        system={"max_concurrent_models": 4},
        api_key="test-key",
        env={"METRICS_TOKEN": "scrape-token"},
    ) as running:
        yield running
