"""Other settings hold from one request to the next."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from router.config import ApiConfig, ModelConfig, Reloaded, Settings
from router.errors import ConfigRefused
from tests.fakes.site import Site, services_for, settings_for, site
from tests.support.expect import expect_error

ORIGIN = "https://chat.example"


def apply(found: Site, folder: Path, **changes: Any) -> None:
    found.services.apply(settings_for(folder, **changes))


async def test_keys_origins_and_limits(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        assert (await found.chat()).status_code == 200
        apply(found, tmp_path, api_key="now-there-is-one", api=ApiConfig(cors_origins=(ORIGIN,), max_buffered_mb=64))
        expect_error(await found.chat(), 401)
        answer = await found.chat(authorization="Bearer now-there-is-one", origin=ORIGIN)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert found.services.budget.limit == 64 << 20
        apply(found, tmp_path)
        assert "access-control-allow-origin" not in (await found.chat()).headers


async def test_names_of_more_parts(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        expect_error(await found.client.post("/upstream/a/b/c/d/props", json={}), 404, code="model_not_found")
        models = dict(found.services.settings.models)
        models["chat"] = ModelConfig(model_path=models["chat"].model_path, aliases=("a/b/c/d",))
        found.services.apply(Settings.build(models=models, folder=tmp_path))
        assert (await found.client.post("/upstream/a/b/c/d/props", json={})).status_code == 200
        assert (await found.chat(b'{"model":"a/b/c/d"}')).status_code == 200
        expect_error(await found.chat(b'{"model":"gpt-4o"}'), 404)


async def test_a_follower_is_told_at_once_and_each_time(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        told: list[Settings] = []
        found.services.follow(told.append)
        first = found.services.settings
        second = replace(first, notes=("another",))
        found.services.apply(second)
        assert told == [first, second]


async def test_what_a_reload_has_done(tmp_path: Path) -> None:
    async def reload() -> Reloaded:
        return Reloaded(("new",), (), {"chat": ("flags",)}, ("chat",), 3, (), ("api.port",))

    async with site(tmp_path) as found:
        found.services.reload = reload
        answer = await found.client.post("/v1/reload")
        assert (answer.status_code, answer.json()) == (
            200,
            {
                "added": ["new"],
                "removed": [],
                "changed": {"chat": ["flags"]},
                "restarted": ["chat"],
                "unchanged": 3,
                "applied": [],
                "restart_required": ["api.port"],
            },
        )


async def test_a_reload_that_is_refused_says_why(tmp_path: Path) -> None:
    async def reload() -> Reloaded:
        raise ConfigRefused("config.json: 1 problem\n  - models.a: no")

    async with site(tmp_path) as found:
        expect_error(await found.client.post("/v1/reload"), 400, code="config_refused")
        found.services.reload = reload
        assert "models.a: no" in expect_error(await found.client.post("/v1/reload"), 400)["message"]


async def test_models_that_are_new_are_counted(tmp_path: Path) -> None:
    async with site(tmp_path) as found:
        services = services_for(found.services.settings, found.engine)
        services.telemetry.adopt(["chat", "new"])
        page = services.telemetry.render().decode()
        assert 'router_replays_total{model="new"} 0.0' in page
        assert 'router_replays_total{model="cold"} 0.0' in page, "a counter never goes back"
        assert set(services.telemetry.recent.window(60, found.engine.clock())) >= {"chat", "new", "cold"}
