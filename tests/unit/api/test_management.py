"""Loading, ejecting and resetting models, and their states."""

from datetime import UTC, datetime, timedelta

import httpx
import pytest

from router.core.types import HOST, Priority, Status
from router.errors import ModelFailed
from tests.fakes.board import LLAMA, QWEN, Board
from tests.support.expect import expect_error
from tests.support.views import MIB, device_view


async def test_status_of_models_that_were_never_used(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models/status")
    assert response.json() == {
        "server": {"status": "ready"},
        "models": {QWEN: {"status": "off"}, LLAMA: {"status": "off"}},
        "summary": {"off": 2},
    }


async def test_status_of_a_model_at_work(client: httpx.AsyncClient, board: Board) -> None:
    now = board.clock()
    board.ports[QWEN] = 8085
    board.pin(
        QWEN,
        status=Status.READY,
        replica=7,
        busy=1,
        queued={Priority.HIGH: 1, Priority.NORMAL: 0, Priority.LOW: 2},
        oldest_wait=3.21,
        ready_since=now - 60,
        last_used=now - 5,
        restarts=1,
        seen={HOST: 4096 * MIB},
    )
    body = (await client.get("/v1/models/status")).json()
    found = body["models"][QWEN]
    loaded_at, last_used = (datetime.fromisoformat(found.pop(name)) for name in ("loaded_at", "last_used"))
    assert found == {
        "status": "ready",
        "port": 8085,
        "pid": 8085,
        "vram_mb": 4096,
        "slots": 2,
        "busy": 1,
        "queued": {"high": 1, "normal": 0, "low": 2},
        "oldest_wait_sec": 3.21,
        "restarts": 1,
    }
    assert body["summary"] == {"ready": 1, "off": 1}
    assert abs(datetime.now(UTC) - loaded_at - timedelta(seconds=60)) < timedelta(seconds=2)
    assert abs(last_used - loaded_at - timedelta(seconds=55)) < timedelta(seconds=0.01)


async def test_beside_a_gpu_vram_is_the_gpus_alone(client: httpx.AsyncClient, board: Board) -> None:
    board.memory = (device_view(), device_view("gpu:0"))
    board.pin(QWEN, status=Status.READY, replica=1, seen={HOST: 500 * MIB, "gpu:0": 70 * MIB})
    assert (await client.get(f"/v1/models/{QWEN}/status")).json()["vram_mb"] == 70


async def test_server_status_while_nothing_is_accepted(client: httpx.AsyncClient, board: Board) -> None:
    board.accepting = False
    assert (await client.get("/v1/models/status")).json()["server"] == {"status": "unavailable"}


@pytest.mark.parametrize("path", [LLAMA, "org%2Fllama:q4", "org%2Fllama%3Aq4"])
async def test_one_status_by_any_spelling(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"/v1/models/{path}/status")
    assert response.json() == {"status": "off"}


async def test_one_status_by_a_further_name(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.LOADING, replica=1, loading_since=board.clock())
    found = (await client.get("/v1/models/fast/status")).json()
    assert found["status"] == "loading"
    assert found["loading_since"].endswith("Z")


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/v1/models/nobody/status", None),
        ("POST", "/v1/models/nobody/reset", None),
        ("POST", "/v1/models/load", {"model": "nobody"}),
        ("POST", "/v1/models/eject", {"model": "nobody"}),
    ],
)
async def test_an_unknown_model_is_404(
    client: httpx.AsyncClient, method: str, path: str, body: dict[str, str] | None
) -> None:
    response = await client.request(method, path, json=body)
    expect_error(response, 404, code="model_not_found", param="model")


async def test_failed_lists_the_failed_with_their_reason(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(LLAMA, status=Status.FAILED, reason="exit code 1: garbage", retry_at=board.clock() + 30)
    models = (await client.get("/v1/models/failed")).json()["models"]
    assert list(models) == [LLAMA]
    assert models[LLAMA]["reason"] == "exit code 1: garbage"
    assert datetime.fromisoformat(models[LLAMA]["retry_at"]) > datetime.now(UTC)


async def test_load_answers_at_once(client: httpx.AsyncClient, board: Board) -> None:
    response = await client.post("/v1/models/load", json={"model": "fast"})
    assert (response.status_code, response.json()) == (202, {"model": QWEN, "status": "loading"})
    assert board.loaded == [QWEN]


async def test_load_of_a_ready_model(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(QWEN, status=Status.READY, replica=1)
    response = await client.post("/v1/models/load", json={"model": QWEN})
    assert (response.status_code, response.json()) == (200, {"model": QWEN, "status": "ready"})


async def test_load_and_wait(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/models/load", json={"model": QWEN, "wait": True})
    assert (response.status_code, response.json()["status"]) == (200, "ready")


async def test_load_and_wait_for_one_that_fails(client: httpx.AsyncClient, board: Board) -> None:
    board.wait_error = ModelFailed("qwen: exit code 1")
    response = await client.post("/v1/models/load", json={"model": QWEN, "wait": True})
    assert expect_error(response, 503)["message"] == "qwen: exit code 1"
    assert response.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("force", [False, True])
async def test_eject(client: httpx.AsyncClient, board: Board, force: bool) -> None:
    response = await client.post("/v1/models/eject", json={"model": "fast", "force": force})
    assert (response.status_code, response.json()) == (200, {"model": QWEN, "status": "off"})
    assert board.ejected == [(QWEN, force)]


async def test_eject_does_not_force_by_itself(client: httpx.AsyncClient, board: Board) -> None:
    await client.post("/v1/models/eject", json={"model": LLAMA})
    assert board.ejected == [(LLAMA, False)]


async def test_reset(client: httpx.AsyncClient, board: Board) -> None:
    board.pin(LLAMA, status=Status.FAILED, reason="broken")
    response = await client.post(f"/v1/models/{LLAMA}/reset")
    assert response.json() == {"model": LLAMA, "status": "off"}
    assert board.resets == [LLAMA]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b'{"model": ', None),
        (b"[1]", None),
        (b"null", None),
        (b'{"model": "\\ud800"}', None),
        (b'{"model": "\xff"}', None),
        (b"[" * 100_000, None),
        (b"{}", "model"),
        (b'{"model": 5}', "model"),
        (b'{"model": "qwen", "force": "yes"}', "force"),
        (b'{"model": "qwen", "colour": 1}', "colour"),
    ],
)
async def test_a_bad_body_is_400_and_names_the_field(
    client: httpx.AsyncClient, board: Board, body: bytes, param: str | None
) -> None:
    response = await client.post("/v1/models/eject", content=body)
    error = expect_error(response, 400)
    assert error["param"] == param
    assert "model, force" in error["message"]
    assert board.ejected == []


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", None])
async def test_json_is_json_whatever_it_is_called(client: httpx.AsyncClient, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    response = await client.post("/v1/models/load", content=b'{"model": "qwen"}', headers=headers)
    assert response.status_code == 202


async def test_the_openapi_page_tells_of_bodies_and_answers(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    load = paths["/v1/models/load"]["post"]
    assert "model" in load["requestBody"]["content"]["application/json"]["schema"]["properties"]
    assert {"200", "202", "400", "404", "503"} <= set(load["responses"])
    assert "422" not in load["responses"]
    assert [p["name"] for p in paths["/v1/models/{alias}/status"]["get"]["parameters"]] == ["alias"]
