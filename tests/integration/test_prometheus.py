"""A real Prometheus scrapes a real router, and every panel of the dashboard has something to show."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.monitoring import MONITORING, Query, queries, read_yaml
from tests.support.router import RunningRouter, free_port
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.llama,
    pytest.mark.skipif(
        shutil.which("prometheus") is None or shutil.which("promtool") is None,
        reason="prometheus or promtool is not installed",
    ),
]

METRICS_TOKEN = "scrape-token"  # of `running_router`
ANSWERS_DEADLINE = 60.0
QUERIES = queries()


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=10)

    def ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def get(self, path: str, **params: str) -> Any:
        answer = self.client.get(f"/api/v1/{path}", params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def figures(self, expr: str) -> list[float]:
        """The values of an instant query, those left out that are no numbers (0/0: nothing happened yet)."""
        values = (float(series["value"][1]) for series in self.get("query", query=expr)["result"])
        return [value for value in values if math.isfinite(value)]


def write_config(folder: Path, target: str) -> Path:
    """The configuration of the repository, for this router and in a hurry."""
    config = read_yaml(MONITORING / "prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / name) for name in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    token = folder / "metrics_token"
    token.write_text(METRICS_TOKEN)
    job["authorization"]["credentials_file"] = str(token)
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@pytest.fixture(scope="module")
def config_file(running_router: RunningRouter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("prometheus"), running_router.url.removeprefix("http://"))


@pytest.fixture(scope="module")
def prometheus(config_file: Path) -> Iterator[Prometheus]:
    port = free_port()
    command = [
        "prometheus",
        f"--config.file={config_file}",
        f"--storage.tsdb.path={config_file.parent / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = config_file.parent / "log"
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        found = Prometheus(port)
        try:
            wait_until(lambda: found.ready() or process.poll() is not None, 30, "Prometheus")
            assert process.poll() is None, log.read_text()
            yield found
        finally:
            found.client.close()
            process.kill()


@pytest.fixture(scope="module")
def figures(prometheus: Prometheus, running_router: RunningRouter) -> Mapping[Query, list[float]]:
    """What each query of the dashboard finds while the router is at work; a query that finds nothing is left out."""
    found: dict[Query, list[float]] = {}

    def everything_found() -> bool:
        use(running_router)
        for query in QUERIES:
            expr = query.with_variables({"__rate_interval": "10s", "model": ".*"})
            if query not in found and (values := prometheus.figures(expr)):
                found[query] = values
        return len(found) == len(QUERIES)

    with suppress(TimeoutError):  # each query says for itself, below, what it misses
        wait_until(everything_found, ANSWERS_DEADLINE)
    return found


def use(router: RunningRouter) -> None:
    """An answer, a stream, an embedding and a client's mistake."""
    assert router.chat("chat").status_code == 200
    stream = router.chat("org/chatter:q4", stream=True, stream_options={"include_usage": True})
    assert stream.text.rstrip().endswith("data: [DONE]")
    embedding = router.client.post("/v1/embeddings", json={"model": "embed", "input": "Hello"})
    assert embedding.status_code == 200
    mistake = router.client.post("/v1/chat/completions", json={"model": "chat", "messages": "no list"})
    assert 400 <= mistake.status_code < 500


def test_promtool_takes_the_configuration_with_its_rules_and_token(config_file: Path) -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(config_file)], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_a_panel_has_something_to_show(figures: Mapping[Query, list[float]], query: Query) -> None:
    assert figures.get(query), f"{query.expr} found nothing within {ANSWERS_DEADLINE:g} s"


def test_the_scrape_is_let_in_by_its_token_and_complete(
    prometheus: Prometheus, figures: Mapping[Query, list[float]]
) -> None:
    (target,) = prometheus.get("targets", state="active")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    assert target["labels"]["job"] == "llama-router"


def test_the_models_can_be_chosen_from(
    prometheus: Prometheus, running_router: RunningRouter, figures: Mapping[Query, list[float]]
) -> None:
    names = prometheus.get("label/model/values", **{"match[]": "router_model_state"})
    assert set(names) == set(running_router.models)


def test_what_was_used_is_counted(prometheus: Prometheus, figures: Mapping[Query, list[float]]) -> None:
    def total(selector: str) -> float:
        return sum(prometheus.figures(selector))

    assert total('router_requests_total{model="org/chatter:q4",status="success"}') >= 1
    assert total('router_requests_total{model="chat",status="client_error"}') >= 1
    assert total('router_tokens_out_total{model="org/chatter:q4"}') >= 1
    assert total('router_tokens_in_total{model="embed"}') >= 1
    assert total('router_model_state{model="chat",state="ready"}') == 1


def test_every_alert_can_be_computed_from_what_the_router_exports(
    prometheus: Prometheus, figures: Mapping[Query, list[float]]
) -> None:
    def evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in rules())

    def rules() -> list[dict[str, Any]]:
        return [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]

    wait_until(evaluated, 20, "the first evaluation of the alerts")
    assert {rule["name"]: rule.get("lastError", "") for rule in rules() if rule["health"] != "ok"} == {}


def test_a_wrong_token_is_refused(running_router: RunningRouter) -> None:
    for token, status in ((METRICS_TOKEN, 200), ("wrong", 401)):
        answer = httpx.get(f"{running_router.url}/metrics", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == status, json.dumps(dict(answer.headers))
