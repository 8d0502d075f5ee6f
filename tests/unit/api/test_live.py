"""The live streams, over real sockets."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message

from router.api.app import create_app
from router.api.disconnect import ClientDisconnected
from router.api.routes import live
from router.api.services import Services
from router.config import Keys
from router.core.types import Status
from router.telemetry.gauges import SharedSampler
from router.telemetry.status import QUEUE_LIMIT
from tests.fakes.board import LLAMA, QWEN, Board, board_services, eventually, serving

STATUS, METRICS = "/v1/models/status/stream", "/metrics/stream"


@pytest.fixture
def services(services: Services) -> Services:
    services.telemetry.sampler = SharedSampler(interval=0.02)
    return services


@pytest.fixture
async def client(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(create_app(services)) as url, httpx.AsyncClient(base_url=url, timeout=5) as found:
        yield found
        services.status.close()


class Events:
    """The events of one open stream."""

    def __init__(self, response: httpx.Response) -> None:
        self._lines = response.aiter_lines()

    async def next(self) -> tuple[str, dict[str, Any]]:
        """The next event's name and data; raises StopAsyncIteration at the end of the stream."""
        name = ""
        async with asyncio.timeout(5):
            while True:
                line = await anext(self._lines)
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return name, json.loads(line.removeprefix("data: "))

    async def drain(self) -> None:
        """Read to the end of the stream; raises httpx.RemoteProtocolError if it was cut off."""
        async with asyncio.timeout(5):
            async for _ in self._lines:
                pass

    async def comment(self) -> str:
        async with asyncio.timeout(5):
            while not (line := await anext(self._lines)).startswith(":"):
                pass
        return line


async def test_full_status_first_then_each_change_in_order(
    client: httpx.AsyncClient, board: Board, services: Services
) -> None:
    async with client.stream("GET", STATUS) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        events = Events(response)
        assert await events.next() == (
            "full_status",
            {
                "server": {"status": "ready"},
                "models": {QWEN: {"status": "off"}, LLAMA: {"status": "off"}},
                "summary": {"off": 2},
            },
        )
        board.ports[QWEN] = 8085
        for status in (Status.LOADING, Status.READY, Status.DRAINING):
            services.telemetry.model_changed(board.pin(QWEN, status=status, replica=1), Status.OFF)
        told = [await events.next() for _ in range(3)]
    assert [name for name, _ in told] == ["model_update"] * 3
    assert [data["status"] for _, data in told] == ["loading", "ready", "draining"]
    assert all(data["alias"] == QWEN and data["port"] == 8085 for _, data in told)


async def test_an_update_of_a_former_replica_does_not_borrow_the_present_ones_port(
    client: httpx.AsyncClient, board: Board, services: Services
) -> None:
    async with client.stream("GET", STATUS) as response:
        events = Events(response)
        await events.next()
        former = board.pin(QWEN, status=Status.STOPPING, replica=1)
        board.pin(QWEN, status=Status.READY, replica=2)
        board.ports[QWEN] = 8086
        services.status.publish(former)
        _, data = await events.next()
    assert data["status"] == "stopping"
    assert "port" not in data


async def test_every_listener_is_told(client: httpx.AsyncClient, board: Board, services: Services) -> None:
    async with client.stream("GET", STATUS) as first, client.stream("GET", STATUS) as second:
        listeners = (Events(first), Events(second))
        for events in listeners:
            await events.next()
        services.status.publish(board.pin(LLAMA, status=Status.LOADING, replica=1))
        for events in listeners:
            assert (await events.next())[1]["alias"] == LLAMA


async def test_a_slow_listener_gets_the_present_state_in_place_of_what_it_missed(
    board: Board, services: Services
) -> None:
    events = live.status_events(services)
    assert (await anext(events)).event == "full_status"
    for number in range(QUEUE_LIMIT + 1):
        services.status.publish(board.pin(QWEN, status=Status.READY, replica=1, busy=number))
    fresh = await anext(events)
    assert fresh.event == "full_status"
    assert json.loads(str(fresh.data))["models"][QWEN]["busy"] == QUEUE_LIMIT
    services.status.publish(board.pin(QWEN, busy=0))
    assert (await anext(events)).event == "model_update"
    await events.aclose()
    assert services.status.subscribers == 0


async def test_a_listener_that_leaves_is_forgotten(client: httpx.AsyncClient, services: Services) -> None:
    async with client.stream("GET", STATUS) as response:
        await Events(response).next()
        assert services.status.subscribers == 1
    await eventually(lambda: services.status.subscribers == 0)


async def test_comments_keep_a_quiet_stream_alive(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PING_SEC", 0.02)
    async with client.stream("GET", STATUS) as response:
        assert await Events(response).comment() == ": ping"


@pytest.mark.parametrize("path", [STATUS, METRICS])
async def test_closing_the_bus_ends_the_streams_in_good_order(
    client: httpx.AsyncClient, services: Services, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with client.stream("GET", path) as response:
        events = Events(response)
        await events.next()
        services.status.close()
        await events.drain()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_gauges_come_at_each_tick(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.READY, replica=1, busy=1, seen={"host": 42})
    async with client.stream("GET", METRICS) as response:
        events = Events(response)
        name, first = await events.next()
        _, second = await events.next()
    assert name == "metrics"
    assert first["at"] < second["at"]
    assert first["models"][QWEN] == {
        "status": "ready",
        "slots": 2,
        "busy": 1,
        "queued": 0,
        "oldest_wait_sec": 0.0,
        "vram_bytes": 42,
    }
    assert set(first["devices"]["host"]) == {"total_bytes", "used_bytes", "free_bytes", "booked_bytes"}


@pytest.mark.parametrize("path", [STATUS, METRICS])
async def test_a_ticket_opens_a_stream_once(board: Board, tmp_path: Path, path: str) -> None:
    services = board_services(board, tmp_path, api_key="the-key-of-this-test")
    async with serving(create_app(services)) as url, httpx.AsyncClient(base_url=url, timeout=5) as client:
        assert (await client.get(path)).status_code == 401
        assert (await client.post("/v1/stream-ticket")).status_code == 401
        issued = await client.post("/v1/stream-ticket", headers={"x-api-key": "the-key-of-this-test"})
        assert issued.json()["expires_in"] == 60
        query = {"ticket": issued.json()["ticket"]}
        async with client.stream("GET", path, params=query) as response:
            assert response.status_code == 200
            await Events(response).next()
        assert (await client.get(path, params=query)).status_code == 401
        services.status.close()


@pytest.mark.parametrize("path", [STATUS, METRICS])
async def test_a_key_that_is_taken_away_ends_its_streams(board: Board, tmp_path: Path, path: str) -> None:
    services = board_services(board, tmp_path, api_key="the-key-of-this-test")
    services.telemetry.sampler = SharedSampler(interval=0.02)
    async with serving(create_app(services)) as url, httpx.AsyncClient(base_url=url, timeout=5) as client:
        key = {"x-api-key": "the-key-of-this-test"}
        ticket = (await client.post("/v1/stream-ticket", headers=key)).json()["ticket"]
        async with client.stream("GET", path, headers=key) as response:
            events = Events(response)
            await events.next()
            services.apply(services.settings)  # which changes nothing
            services.status.refresh()
            await events.next()
            services.apply(replace(services.settings, keys=Keys.of(api_key="another-one")))
            services.status.refresh()
            await events.drain()
        assert (await client.get(path, params={"ticket": ticket})).status_code == 401


async def test_head_does_not_open_a_stream(client: httpx.AsyncClient, services: Services) -> None:
    response = await client.head(STATUS)
    assert response.status_code in {200, 405}
    assert services.status.subscribers == 0


async def test_a_listener_that_takes_nothing_is_given_up(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "SEND_TIMEOUT_SEC", 0.01)

    async def never() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    async def stuck_send(message: Message) -> None:
        if message["type"] == "http.response.body":
            await never()

    async with asyncio.timeout(5):
        with pytest.raises(ClientDisconnected):
            await live.EventStream(live.status_events(services))({"type": "http", "method": "GET"}, never, stuck_send)
    assert services.status.subscribers == 0
