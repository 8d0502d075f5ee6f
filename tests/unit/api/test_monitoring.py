"""Health, readiness, metrics, memory, queues and the summary."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from router import __version__
from router.api.services import Services
from router.core.types import HOST, Obstacle, Priority, Status
from router.telemetry.records import RequestRecord
from tests.fakes.board import LLAMA, QWEN, Board
from tests.support.views import MIB, device_view, replica_view


@pytest.mark.parametrize("path", ["/health", "/healthz"])
async def test_health_is_ok_whatever_models_do(client: httpx.AsyncClient, board: Board, path: str) -> None:
    board.accepting = False
    board.pin(QWEN, status=Status.FAILED)
    response = await client.get(path)
    assert response.status_code == 200
    body = response.json()
    assert body.pop("uptime_sec") >= 0
    assert body == {"status": "ok", "version": __version__, "llama": "fake b1"}


@pytest.mark.parametrize("path", ["/health", "/healthz", "/readyz"])
async def test_probes_may_ask_with_head(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.head(path)).status_code == 200


async def test_ready(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.LOADING, replica=1, queued={Priority.NORMAL: 9}, oldest_wait=200.0)
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


async def test_not_ready_says_why(client: httpx.AsyncClient, board: Board) -> None:
    board.accepting = False
    board.woes = ("a slot is lost",)
    board.memory = (device_view("gpu:0", total=0),)
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"
    error = response.json()["error"]
    assert error["code"] == "not_ready"
    for reason in ("starting up or shutting down", "a slot is lost", "gpu:0 cannot be read"):
        assert reason in error["message"]


async def test_not_ready_without_a_device(client: httpx.AsyncClient, board: Board) -> None:
    board.memory = ()
    assert "no device" in (await client.get("/readyz")).json()["error"]["message"]


async def test_metrics_are_prometheus_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(response.text)}
    assert {"router_requests", "router_model_vram_bytes", "router_queue_depth"} <= names


async def test_metrics_of_an_unknown_child(client: httpx.AsyncClient) -> None:
    response = await client.get("/metrics", params={"model": "nobody"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


async def test_vram(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.READY, replica=1, booked={HOST: 300 * MIB}, seen={HOST: 250 * MIB + 1})
    body = (await client.get("/vram")).json()
    (device,) = body["devices"]
    assert device["id"] == HOST
    assert device["total_bytes"] == 1000 * MIB
    assert (device["total_mb"], device["used_mb"], device["free_mb"]) == (1000, 400, 600)
    assert (device["booked_bytes"], device["seen_bytes"]) == (300 * MIB, 200 * MIB)
    assert (device["others_bytes"], device["available_bytes"]) == (200 * MIB, 500 * MIB)
    assert body["models"][QWEN] == {
        "booked_bytes": {HOST: 300 * MIB},
        "seen_bytes": {HOST: 250 * MIB + 1},
        "booked_mb": 300,
        "seen_mb": 250,
        "estimate": {"gpu_bytes": 0, "host_bytes": 300 * MIB, "reserve_bytes": 10 * MIB, "source": "file size"},
        "replicas": [],
    }
    assert body["models"][LLAMA]["seen_bytes"] == {}


async def test_each_replica_is_shown(client: httpx.AsyncClient, board: Board) -> None:
    now = board.clock()
    replicas = (
        replica_view(3, busy=1, ready_since=now - 9, booked={HOST: 300 * MIB}, seen={HOST: 250 * MIB}),
        replica_view(8, status=Status.LOADING, slots=1, loading_since=now, booked={HOST: 290 * MIB}),
    )
    board.pin(QWEN, status=Status.READY, replica=3, slots=2, busy=1, replicas=replicas)
    board.ports[QWEN] = 8085
    found = (await client.get("/v1/models/status")).json()["models"][QWEN]["replicas"]
    assert [(one["id"], one["status"], one.get("port"), one["slots"], one["busy"]) for one in found] == [
        (3, "ready", 8085, 2, 1),
        (8, "loading", None, 1, 0),
    ]
    assert found[0]["vram_mb"] == 250
    assert ("loaded_at" in found[0], "loading_since" in found[1]) == (True, True)
    memory = (await client.get("/vram")).json()["models"][QWEN]["replicas"]
    assert memory[1] == {"id": 8, "booked_bytes": {HOST: 290 * MIB}, "seen_bytes": {}}
    slots = (await client.get("/v1/queue/stats")).json()["models"][QWEN]["replicas"]
    assert slots[0] == {"id": 3, "status": "ready", "slots": 2, "busy": 1}
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["replicas"] for model in listed] == [1, 0]
    assert 'router_model_replicas{model="qwen"} 1.0' in (await client.get("/metrics")).text


async def test_an_overbooked_device_has_nothing_available(client: httpx.AsyncClient, board: Board) -> None:
    board.memory = (device_view(HOST, available=-5),)
    assert (await client.get("/vram")).json()["devices"][0]["available_bytes"] == 0


async def test_a_device_that_cannot_be_read_says_why(client: httpx.AsyncClient, board: Board) -> None:
    assert "fault" not in (await client.get("/vram")).json()["devices"][0]
    board.memory = (replace(device_view(HOST), fault="fell off the bus"),)
    assert (await client.get("/vram")).json()["devices"][0]["fault"] == "fell off the bus"


async def test_queue_stats(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.READY, replica=1, busy=2, queued={Priority.HIGH: 1, Priority.LOW: 2}, oldest_wait=4.0)
    board.pin(
        LLAMA,
        queued={Priority.NORMAL: 3},
        oldest_wait=9.0,
        head_deadline=board.clock() + 60,
        obstacle=Obstacle.MEMORY,
        shortage="needs 5 MiB",
        expected_wait=7.5,
    )
    before = datetime.now(UTC)
    body = (await client.get("/v1/queue/stats")).json()
    assert body["models"][QWEN] == {
        "queued": {"high": 1, "normal": 0, "low": 2},
        "depth": 3,
        "oldest_wait_sec": 4.0,
        "expected_wait_sec": 0.0,
        "slots": 2,
        "busy": 2,
        "replicas": [],
    }
    waiting = body["models"][LLAMA]
    assert (waiting["waits_for"], waiting["expected_wait_sec"]) == ("memory", 7.5)
    assert waiting["shortage"] == "needs 5 MiB"
    assert abs(datetime.fromisoformat(waiting["head_deadline"]) - before - timedelta(minutes=1)) < timedelta(seconds=30)
    assert body["total"] == {"depth": 6, "oldest_wait_sec": 9.0, "slots": 2, "busy": 2}


async def test_summary_over_a_window(client: httpx.AsyncClient, services: Services) -> None:
    now = services.engine.clock()
    for ago, seconds in ((100.0, 50.0), (1.0, 2.0)):
        record = RequestRecord(
            QWEN, "/v1/embeddings", "success", now - ago - seconds, now - ago, now - ago, 5, 7, "normal"
        )
        services.telemetry.request_finished(record)
    body = (await client.get("/v1/telemetry/summary", params={"window_sec": 60})).json()
    assert body["window_sec"] == 60
    assert body["models"][QWEN]["requests"] == {"success": 1, "client_error": 0, "server_error": 0, "cancelled": 0}
    assert body["models"][QWEN]["tokens_out"] == 7
    assert body["models"][QWEN]["latency"]["p99"] == pytest.approx(2.0)
    assert body["models"][LLAMA]["latency"]["p50"] is None
    assert body["overall"]["tokens_in"] == 5


@pytest.mark.parametrize("window", ["0", "3601", "nan", "soon"])
async def test_an_odd_window_is_400(client: httpx.AsyncClient, window: str) -> None:
    response = await client.get("/v1/telemetry/summary", params={"window_sec": window})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "window_sec"


async def test_health_of_models(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(LLAMA, status=Status.FAILED, reason="exit code 1")
    board.tails[LLAMA] = "loading\nmodel is corrupted\n"
    body = (await client.get("/v1/health/models")).json()
    assert body == {
        "status": "degraded",
        "models": {
            QWEN: {"health": "ok", "status": "off"},
            LLAMA: {
                "health": "failing",
                "status": "failed",
                "reason": "exit code 1",
                "log": ["loading", "model is corrupted"],
            },
        },
    }


async def test_health_of_models_when_all_is_well(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/health/models")).json()["status"] == "ok"
