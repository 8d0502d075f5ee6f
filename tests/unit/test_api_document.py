"""docs/api.md names every route, error, field and metric that there is, and no other."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel

from router.api.app import create_api
from router.api.figures import Health, Memory, ModelsHealth, QueueStats, Readiness, TelemetrySummary
from router.api.routes.models import Greeting, ModelList
from router.api.schemas import FailedModels, FullStatus, ModelAction, ModelStatus, ReloadReport, StreamTicket
from router.api.services import Services
from router.core.types import DeviceView, Status
from router.errors import MethodNotAllowed, RouterError
from router.proxy import complaint
from router.proxy.dialect import Dialect, ErrorInfo, error_body
from tests.fakes.engine import FakeEngine, FakeModel
from tests.fakes.site import services_for, settings_for
from tests.support.views import device_view

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROSE = _FENCE.sub("", PAGE)
COMMANDS = [match[2].replace("\\\n", "") for match in _FENCE.finditer(PAGE) if match[1] == "sh"]
JSON_BLOCKS = [match[2] for match in _FENCE.finditer(PAGE) if match[1] == "json"]

Route = tuple[str, str]


class EngineWithMemory(FakeEngine):
    def devices(self) -> tuple[DeviceView, ...]:
        return (device_view(),)


@pytest.fixture
async def services(tmp_path: Path) -> Services:
    """On the test's loop, whose clock the fake engine reads."""
    settings = settings_for(tmp_path)
    return services_for(settings, EngineWithMemory(**{name: FakeModel() for name in settings.models}))


@pytest.fixture
async def routes(services: Services) -> set[Route]:
    return routes_of(create_api(services))


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    section = re.split(r"^#+ ", PROSE.partition(f"\n{heading}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    table = re.search(r"^\|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE)
    assert table, f"no table below {heading}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def routes_of(app: FastAPI) -> set[Route]:
    found = set()
    for route in iter_route_contexts(app.routes):
        # The alias and the path behind it are told apart by the configured names.
        path = (route.path or "").replace("/upstream/{rest:path}", "/upstream/{alias}/{path}")
        found |= {(method, re.sub(r"\{(\w+):\w+\}", r"{\1}", path)) for method in route.methods or ()}
    return found


def called(command: str) -> Route:
    """The method and path of a line of curl."""
    found = re.search(r"http://127\.0\.0\.1:8000(/[^\s'?]*)", command)
    assert found, command
    method = re.search(r"-X (\w+)", command)
    return (method[1] if method else "POST" if re.search(r" -[dF] ", command) else "GET"), found[1]


def is_one_of(call: Route, routes: set[Route]) -> bool:
    return any(
        method == call[0] and re.fullmatch(re.sub(r"\\\{\w+\\\}", ".+", re.escape(path)), call[1])
        for method, path in routes
    )


def our_errors(base: type[RouterError] = RouterError) -> set[type[RouterError]]:
    """All of the router's; those that tests derive are left out."""
    found = {base} if base.__module__.startswith("router.") else set()
    return found.union(*(our_errors(kind) for kind in base.__subclasses__()))


def made(kind: type[RouterError]) -> RouterError:
    return MethodNotAllowed("message", allow=["GET"]) if issubclass(kind, MethodNotAllowed) else kind("message")


def anthropic_type(error: RouterError) -> str:
    found = json.loads(error_body(ErrorInfo.of(error), Dialect.ANTHROPIC, "id"))["error"]["type"]
    assert isinstance(found, str)
    return found


async def test_every_route_is_documented_and_no_other(routes: set[Route]) -> None:
    documented = set(re.findall(r"`(GET|HEAD|POST|PUT|PATCH|DELETE) (/[^`?]*)(?:\?[^`]*)?`", PROSE))
    assert documented == routes


async def test_every_command_calls_a_route(routes: set[Route]) -> None:
    curls = [line for command in COMMANDS for line in command.splitlines() if line.startswith("curl ")]
    assert len(curls) > 20
    assert [line for line in curls if not is_one_of(called(line), routes)] == []


def test_every_error_is_documented_with_its_status_and_types() -> None:
    documented = [
        (quoted(code)[0], int(status), quoted(ours)[0], quoted(theirs)[0], retry == "no")
        for code, status, ours, theirs, retry, _, _ in rows("### The router's own")
    ]
    errors = [made(kind) for kind in our_errors()]
    expected = [
        (error.code, error.status, error.type, anthropic_type(error), error.should_retry is False) for error in errors
    ]
    assert sorted(documented) == sorted(expected, key=str)


def test_every_code_given_to_a_models_errors_is_documented() -> None:
    documented = {quoted(kind)[0]: quoted(code)[0] for code, kind, _ in rows("### The model's")}
    assert documented == complaint._CODES


async def test_every_metric_is_documented_with_its_type_and_labels(services: Services) -> None:
    table = rows("## Prometheus metrics")
    documented = {quoted(name)[0]: (kind, set(quoted(labels))) for name, kind, labels, _ in table}
    found = {}
    for family in text_string_to_metric_families(services.telemetry.render().decode()):
        if family.name.startswith("router_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            assert family.samples, name
            found[name] = (family.type, {label for sample in family.samples for label in sample.labels} - {"le"})
    assert documented == found


def test_every_status_is_documented() -> None:
    assert [quoted(status) for status, _ in rows("### Status")] == [[status.value] for status in Status]


def test_every_field_of_a_status_is_documented() -> None:
    documented = [name for names, _ in rows("### Fields of a status") for name in quoted(names)]
    assert sorted(documented) == sorted(ModelStatus.model_fields)


@pytest.mark.parametrize("block", JSON_BLOCKS)
def test_the_json_is_valid(block: str) -> None:
    assert json.loads(block)


@pytest.mark.parametrize(
    ("call", "schema"),
    [
        ("/", Greeting),
        ("/health", Health),
        ("/readyz", Readiness),
        ("/vram", Memory),
        ("/v1/models", ModelList),
        ("/v1/models/status", FullStatus),
        ("/v1/models/demo-small/status", ModelStatus),
        ("/v1/models/failed", FailedModels),
        ("/v1/models/load", ModelAction),
        ("/v1/models/eject", ModelAction),
        ("/v1/models/demo-large/reset", ModelAction),
        ("/v1/reload", ReloadReport),
        ("/v1/stream-ticket", StreamTicket),
        ("/v1/queue/stats", QueueStats),
        ("/v1/telemetry/summary", TelemetrySummary),
        ("/v1/health/models", ModelsHealth),
    ],
)
def test_the_answers_shown_have_the_shape_of_their_schema(call: str, schema: type[BaseModel]) -> None:
    blocks = [(match[1], match[2]) for match in _FENCE.finditer(PAGE)]
    shown = [answer for (kind, text), (_, answer) in pairwise(blocks) if kind == "sh" and called(text)[1] == call]
    assert shown
    for answer in shown:
        schema.model_validate_json(answer)
