"""What another configuration changes in a router that runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from pydantic import BaseModel

from router.config.keys import VARIABLE_OF
from router.config.models import ModelConfig
from router.config.settings import Settings

# Keys that hold as soon as they are read. All others wait for a restart: what is not known to be safe is not touched.
LIVE: Mapping[str, frozenset[str]] = {
    "api": frozenset(
        (
            "allow_remote_media",
            "allow_unauthenticated",
            "allowed_hosts",
            "api_keys",
            "cors_origins",
            "log_prompts",
            "max_body_mb",
            "max_buffered_mb",
            "max_text_mb",
            "stream_ping_sec",
        )
    ),
    "system": frozenset(
        (
            "base_models_path",
            "default_parallel",
            "discover_models",
            "drain_timeout_sec",
            "enable_idle_timeout",
            "generation_timeout_sec",
            "health_failures",
            "health_interval_sec",
            "idle_timeout_sec",
            "load_timeout_sec",
            "max_concurrent_models",
            "max_queue_size_per_model",
            "max_rss_mb",
            "min_residency_sec",
            "preload_models",
            "priority_offsets_sec",
            "queue_timeout_sec",
            "request_timeout_sec",
            "restart_grace_sec",
            "vram_multiplier",
        )
    ),
}


@dataclass(frozen=True, slots=True)
class Changes:
    """The difference between two settings.

    Attributes:
        settings: what holds from now on: the new ones, with the old values of what needs a restart.
        added, removed: models.
        models: keys of each model that is in both and differs.
        applied: other keys that differ and hold from now on.
        restart_required: other keys that differ, and hold only after a restart.
    """

    settings: Settings
    added: tuple[str, ...]
    removed: tuple[str, ...]
    models: Mapping[str, tuple[str, ...]]
    applied: tuple[str, ...]
    restart_required: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What became of it.

    Attributes:
        changed: keys of each model that differs, `files` where a file was replaced.
        restarted: models that were in memory, and were or are loaded anew.
        unchanged: how many models are as before.
        applied, restart_required: see `Changes`.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: Mapping[str, tuple[str, ...]]
    restarted: tuple[str, ...]
    unchanged: int
    applied: tuple[str, ...]
    restart_required: tuple[str, ...]


def compare(old: Settings, new: Settings) -> Changes:
    """What it means that `new` was read while `old` holds."""
    changed = [*_changed("api", old.api, new.api), *_changed("system", old.system, new.system)]
    waiting = [path for path in changed if not _is_live(path)]
    settings = replace(
        new,
        api=_held_back("api", old.api, new.api, waiting),
        system=_held_back("system", old.system, new.system, waiting),
    )
    common = [name for name in new.models if name in old.models]
    models = {name: keys for name in common if (keys := tuple(_model_keys(old, settings, name)))}
    return Changes(
        settings=settings,
        added=tuple(name for name in new.models if name not in old.models),
        removed=tuple(name for name in old.models if name not in new.models),
        models=models,
        applied=(*(path for path in changed if _is_live(path)), *_keys(old, new)),
        restart_required=tuple(waiting),
    )


def _changed(section: str, old: BaseModel, new: BaseModel) -> Iterator[str]:
    for name in type(new).model_fields:
        if getattr(old, name) != getattr(new, name):
            yield f"{section}.{name}"


def _is_live(path: str) -> bool:
    section, _, key = path.partition(".")
    return key in LIVE[section]


_Section = TypeVar("_Section", bound=BaseModel)


def _held_back(section: str, old: _Section, new: _Section, waiting: Iterable[str]) -> _Section:
    names = [path.partition(".")[2] for path in waiting if path.startswith(section + ".")]
    return new.model_copy(update={name: getattr(old, name) for name in names})


def _model_keys(old: Settings, new: Settings, name: str) -> Iterator[str]:
    """Keys that say something else of this model, its own and those of `system` that stand in for them."""
    before, after = old.models[name], new.models[name]
    for key in ModelConfig.model_fields:
        if getattr(before, key) != getattr(after, key):
            yield key
        elif key == "model_path" and old.model_file(name) != new.model_file(name):
            yield "system.base_models_path"
    if old.slots(name) != new.slots(name) and before.parallel == after.parallel:
        yield "system.default_parallel"


def _keys(old: Settings, new: Settings) -> Iterator[str]:
    """Keys of clients that came, went or are others now, as their variables or by their names; all hold at once."""
    before, after = ({key.name: key.digest for key in one.keys.everyone} for one in (old, new))
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            yield VARIABLE_OF.get(name, f"the key '{name}'")
