"""Alert rules, their own tests, the dashboard, and what ties them to the metrics and to the handbook."""

import re
import shutil
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from router.core.types import DeviceView, ModelView
from router.telemetry.metrics import Telemetry
from router.telemetry.status import StatusBus
from tests.support.monitoring import MONITORING, ROOT, alerts, dashboard, panels, queries, read_yaml
from tests.support.views import device_view, model_view

ALERTS = list(alerts())
ALERT_TESTS = read_yaml(MONITORING / "alerts.test.yml")["tests"]
METRIC = re.compile(r"\b(?:router|process)_[a-z0-9_]+")
FIRES = re.compile(r'last_over_time\(ALERTS\{alertname="(\w+)", alertstate="firing"\}\[1h\]\)')

needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="prometheus_client counts processes on Linux only")
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def names_of(rules: list[dict[str, Any]]) -> list[str]:
    return [rule["alert"] for rule in rules]


class Rig:
    """An engine with one model and one device."""

    def clock(self) -> float:
        return 0.0

    def views(self) -> tuple[ModelView, ...]:
        return (model_view("qwen"),)

    def troubles(self) -> tuple[str, ...]:
        return ()

    def devices(self) -> tuple[DeviceView, ...]:
        return (device_view(),)


def exported() -> dict[str, set[str]]:
    """Names of all samples that the router exports, each with its label names."""
    telemetry = Telemetry(["qwen"], version="1", status=StatusBus())
    telemetry.attach(Rig())
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(telemetry.render().decode()):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


# -- alerts


def test_alert_names_are_unique() -> None:
    assert max(Counter(names_of(ALERTS)).values()) == 1


@pytest.mark.parametrize("rule", ALERTS, ids=names_of(ALERTS))
def test_an_alert_says_how_urgent_it_is_what_happened_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook"}
    assert "{{ $labels." in rule["annotations"]["summary"], "the summary does not say where"
    assert len(rule["annotations"]["description"]) > 80


@pytest.mark.parametrize("rule", ALERTS, ids=names_of(ALERTS))
def test_an_alert_leads_to_its_section_of_the_handbook(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_handbook_tells_of_no_alert_that_is_gone() -> None:
    text = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    section = text.split("\n## Alerts\n")[1].split("\n## ")[0]
    assert re.findall(r"^### (\w+)$", section, re.MULTILINE) == names_of(ALERTS)


@pytest.mark.parametrize("rule", ALERTS, ids=names_of(ALERTS))
def test_an_alert_has_a_firing_and_a_silent_case(rule: dict[str, Any]) -> None:
    outcomes = set()
    for case in ALERT_TESTS:
        (asked,) = case["promql_expr_test"]
        (name,) = FIRES.findall(asked["expr"])
        assert case["name"].startswith(f"{name} {'fires' if asked['exp_samples'] else 'stays silent'}")
        if name == rule["alert"]:
            outcomes.add(bool(asked["exp_samples"]))
            # A rule without its series is silent in any case.
            given = {METRIC.match(series["series"]) for series in case["input_series"]} - {None}
            assert set(METRIC.findall(rule["expr"])) <= {match[0] for match in given if match}
    assert outcomes == {True, False}


@pytest.mark.prometheus
@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts.test.yml"],
        # The token's file is there in the container alone.
        ["check", "config", "--syntax-only", "prometheus.yml"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_promtool_has_no_complaint(arguments: list[str]) -> None:
    done = subprocess.run(
        ["promtool", *arguments], cwd=MONITORING, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


# -- what is asked is there


@needs_proc
@pytest.mark.parametrize("source", ["alerts", "alerts.test", "dashboard"])
def test_only_metrics_that_the_router_exports_are_asked_for(source: str) -> None:
    text = {
        "alerts": "\n".join(rule["expr"] for rule in ALERTS),
        "alerts.test": "\n".join(series["series"] for case in ALERT_TESTS for series in case["input_series"]),
        "dashboard": "\n".join(query.expr for query in queries()),
    }[source]
    assert set(METRIC.findall(text)) <= set(exported())


def test_the_dashboard_shows_every_metric_of_the_router() -> None:
    shown = {name for query in queries() for name in METRIC.findall(query.expr)}
    wanted = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported() if name.startswith("router_")}
    assert wanted == {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown if name.startswith("router_")}


@needs_proc
def test_labels_in_queries_are_labels_of_the_metric() -> None:
    known = exported()
    given_by_prometheus = {"job", "instance"}
    for expr in [rule["expr"] for rule in ALERTS] + [query.expr for query in queries()]:
        for name, selector in re.findall(r"((?:router|process)_\w+)\{([^}]*)\}", expr):
            labels = set(re.findall(r"(\w+)=~?\"", selector))
            assert labels <= known[name] | given_by_prometheus, f"{name}{{{selector}}}"


# -- the dashboard


def test_panels_neither_overlap_nor_leave_the_grid() -> None:
    for panel in dashboard()["panels"]:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    for one, other in combinations(dashboard()["panels"], 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return (
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def test_every_panel_has_a_title_a_description_a_unit_and_queries() -> None:
    assert max(Counter(panel["id"] for panel in dashboard()["panels"]).values()) == 1
    assert max(Counter(panel["title"] for panel in dashboard()["panels"]).values()) == 1
    for panel in panels():
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["type"] == "state-timeline" or panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]


def test_the_dashboard_works_with_any_data_source_and_any_selection_of_models() -> None:
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert set(variables) == {"datasource", "model"}
    assert variables["model"]["multi"]
    for panel in panels():
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}", panel["title"]
    for query in queries():
        for name, selector in re.findall(r"(router_\w+)(\{[^}]*\})?", query.expr):
            if "model" in exported()[name]:
                assert 'model=~"$model"' in selector, str(query)


# -- the compose file gives each server its files


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """Where files of the repository appear in the container."""
    pairs = (volume.split(":") for volume in service["volumes"] if volume.startswith("./"))
    return {target: ROOT / source for source, target, *_ in pairs}


def test_prometheus_finds_its_configuration_its_rules_and_the_token() -> None:
    compose = read_yaml(ROOT / "docker-compose.monitoring.yml")
    service = compose["services"]["prometheus"]
    config = read_yaml(MONITORING / "prometheus.yml")
    found = mounts(service)
    assert found["/etc/prometheus/prometheus.yml"] == MONITORING / "prometheus.yml"
    assert "--config.file=/etc/prometheus/prometheus.yml" in service["command"]
    for file in config["rule_files"]:
        assert found[f"/etc/prometheus/{file}"].is_file()
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "llama-router"
    (secret,) = service["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert compose["secrets"][secret] == {"environment": "METRICS_TOKEN"}
    assert job["static_configs"] == [{"targets": ["host.docker.internal:8000"]}]
    assert service["extra_hosts"] == ["host.docker.internal:host-gateway"]


def test_grafana_finds_its_data_source_and_its_dashboard() -> None:
    compose = read_yaml(ROOT / "docker-compose.monitoring.yml")
    service = compose["services"]["grafana"]
    found = mounts(service)
    provisioning = found["/etc/grafana/provisioning"]
    (source,) = read_yaml(provisioning / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    interval = read_yaml(MONITORING / "prometheus.yml")["global"]["scrape_interval"]
    assert source["jsonData"]["timeInterval"] == interval
    (provider,) = read_yaml(provisioning / "dashboards" / "dashboards.yml")["providers"]
    folder = found[provider["options"]["path"]]
    home = service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (folder / Path(home).name).is_file()
    assert Path(home).parent == Path(provider["options"]["path"])


@pytest.mark.parametrize(("service", "port"), [("prometheus", 9090), ("grafana", 3000)])
def test_a_server_with_a_known_password_or_none_listens_on_loopback(service: str, port: int) -> None:
    compose = read_yaml(ROOT / "docker-compose.monitoring.yml")
    assert compose["services"][service]["ports"] == [f"${{MONITORING_HOST:-127.0.0.1}}:{port}:{port}"]
