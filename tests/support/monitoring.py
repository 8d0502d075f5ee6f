"""What monitoring/ says, read for tests: the dashboard's queries and the alerts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "monitoring"
DASHBOARD = MONITORING / "grafana" / "dashboards" / "llama-router.json"


@dataclass(frozen=True, slots=True)
class Query:
    """One target of one panel."""

    panel: str
    legend: str
    expr: str

    def with_variables(self, values: Mapping[str, str]) -> str:
        """The expression as Grafana would send it."""
        found = self.expr
        for name, value in values.items():
            found = found.replace(f"${name}", value)
        return found

    def __str__(self) -> str:
        return f"{self.panel} / {self.legend or 'value'}"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """All panels, without the rows that group them."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    return [
        Query(panel["title"], target["legendFormat"], target["expr"])
        for panel in panels()
        for target in panel["targets"]
    ]


def alerts() -> Iterator[dict[str, Any]]:
    for group in read_yaml(MONITORING / "alerts.yml")["groups"]:
        yield from group["rules"]


def read_yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))
