"""What another configuration changes: which key does what."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from router.config import ApiConfig, ClientKey, Keys, ModelConfig, Settings, SystemConfig, compare
from router.config.changes import LIVE

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "configuration.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    return tmp_path


def settings(folder: Path, models: dict[str, dict[str, Any]] | None = None, **options: Any) -> Settings:
    """The model `a`, unless told otherwise."""
    written = {"a": {}} if models is None else models
    configured = {
        name: ModelConfig.model_validate({"model_path": f"{name.lower()}.gguf", **keys})
        for name, keys in written.items()
    }
    return Settings.build(models=configured, folder=folder, **options)


def test_nothing(folder: Path) -> None:
    old, new = settings(folder), settings(folder)
    changes = compare(old, new)
    assert changes.settings == new
    assert (changes.added, changes.removed, changes.models) == ((), (), {})
    assert (changes.applied, changes.restart_required) == ((), ())


def test_models_come_and_go(folder: Path) -> None:
    changes = compare(settings(folder, {"a": {}}), settings(folder, {"b": {}}))
    assert (changes.added, changes.removed, changes.models) == (("b",), ("a",), {})


def test_each_key_of_a_model_is_seen(folder: Path) -> None:
    said: dict[str, Any] = {
        "model_path": "b.gguf",
        "flags": ["-c", "512"],
        "env": {"A": "1"},
        "aliases": ["x"],
        "idle_timeout_sec": 3.0,
        "preload": True,
        "pinned": True,
        "evict_cost": 2.0,
        "exclusive_with": ["b"],
        "max_replicas": 2,
    }
    for key, value in said.items():
        old, new = settings(folder, {"a": {}, "b": {}}), settings(folder, {"a": {key: value}, "b": {}})
        assert compare(old, new).models == {"a": (key,)}


def test_what_stands_in_for_a_models_own_keys_is_named(folder: Path) -> None:
    old = settings(folder, {"a": {}, "b": {"flags": ["-np", "2"]}})
    new = settings(folder, {"a": {}, "b": {"flags": ["-np", "2"]}}, system=SystemConfig(default_parallel=3))
    changes = compare(old, new)
    assert changes.models == {"a": ("system.default_parallel",)}
    assert changes.applied == ("system.default_parallel",)
    (folder / "other").mkdir()
    (folder / "other" / "a.gguf").write_bytes(b"GGUF")
    moved = settings(folder, system=SystemConfig(base_models_path=folder / "other"))
    assert compare(settings(folder), moved).models == {"a": ("system.base_models_path",)}


def test_what_is_not_known_to_be_safe_keeps_its_old_value(folder: Path) -> None:
    old = settings(folder)
    new = settings(
        folder,
        api=ApiConfig(port=1, max_body_mb=7),
        system=SystemConfig(base_port=9, keep_conversations=False, idle_timeout_sec=1.0),
    )
    changes = compare(old, new)
    assert changes.restart_required == ("api.port", "system.base_port", "system.keep_conversations")
    assert changes.applied == ("api.max_body_mb", "system.idle_timeout_sec")
    held = changes.settings
    assert (held.api.port, held.system.base_port, held.system.keep_conversations) == (8000, 8085, True)
    assert (held.api.max_body_mb, held.system.idle_timeout_sec) == (7, 1.0)
    assert compare(held, new).restart_required == changes.restart_required, "and is named again"


def test_keys_hold_at_once_and_are_named_by_their_variables(folder: Path) -> None:
    keys = Keys.of(api_key="secret-1", metrics="secret-2")
    named = Keys(clients=(*keys.clients, ClientKey.of("alice", "secret-3")), metrics=keys.metrics)
    changes = compare(settings(folder), settings(folder, keys=named))
    assert changes.applied == ("the key 'alice'", "API_KEY", "METRICS_TOKEN")
    assert "secret" not in repr(changes.applied)
    assert changes.settings.keys == named


def test_the_page_names_what_needs_a_restart() -> None:
    table = PAGE.partition("These keys need a restart.")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|(.*)\|$", table, re.MULTILINE)
    told = {section: re.findall(r"`(\w+)`", keys) for section, keys in rows}
    assert told == {
        "api": [key for key in ApiConfig.model_fields if key not in LIVE["api"]],
        "system": [key for key in SystemConfig.model_fields if key not in LIVE["system"]],
    }


def test_every_live_key_exists() -> None:
    assert LIVE["api"] <= set(ApiConfig.model_fields)
    assert LIVE["system"] <= set(SystemConfig.model_fields)
