"""The settings as the rest of the program sees them: complete, checked, with absolute paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from router.config.catalog import Catalog, build_catalog
from router.config.files import absolute, shard_files
from router.config.flags import telling_flag, telling_variable
from router.config.keys import Keys, exposed_files, read_keys
from router.config.models import ApiConfig, ModelConfig, SystemConfig, parallel_slots
from router.config.problems import key_path, nearest, shown
from router.errors import ConfigError, Problem


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that was configured, from wherever it came.

    Attributes:
        api, system: effective values: what the environment or the command line says is in them; paths are absolute.
        models: by canonical name, in order, discovered ones at the end.
        source: the file that was read; None = none.
        dotenv: the `.env` that was read; None = none.
        keys: what clients must present; without any only loopback peers may come in.
        notes: what was left out or looks odd, for the log.
        warnings: what works, and should not stay as it is.
    """

    api: ApiConfig
    system: SystemConfig
    models: Mapping[str, ModelConfig]
    source: Path | None
    dotenv: Path | None
    keys: Keys
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    _names: Mapping[str, str] = field(repr=False)
    _files: Mapping[str, Path] = field(repr=False)

    @classmethod
    def build(
        cls,
        *,
        models: Mapping[str, ModelConfig],
        api: ApiConfig | None = None,
        system: SystemConfig | None = None,
        keys: Keys | None = None,
        folder: Path | None = None,
    ) -> Settings:
        """Settings from Python objects, with the same checks between them as a file gets.

        Args:
            keys: in place of those that `api.api_keys` names.
            folder: what relative paths are relative to; the working directory if left out.

        Raises ConfigError.
        """
        folder, api = folder or Path.cwd(), api or ApiConfig()
        problems: list[Problem] = []
        return assemble(
            api=api,
            system=with_absolute_paths(system or SystemConfig(), folder, folder),
            models=models,
            folder=folder,
            keys=keys or read_keys({}, api, folder, problems),
            problems=problems,
        )

    @property
    def state_dir(self) -> Path:
        """Where logs of children, the pid file and learned facts are kept: absolute, not created here."""
        return self.system.state_dir

    @property
    def preload(self) -> tuple[str, ...]:
        """Canonical names of the models to load at start: those of `preload_models` first, each once."""
        listed = self.system.preload_models
        first = self.models if "*" in listed else (self._names[name] for name in listed)
        return tuple(dict.fromkeys([*first, *(name for name, model in self.models.items() if model.preload)]))

    @property
    def known_names(self) -> Iterable[str]:
        """Names and aliases of all models."""
        return self._names.keys()

    def canonical(self, name: str) -> str | None:
        """The canonical name behind a name or alias; None when there is no such model."""
        return self._names.get(name)

    def model_file(self, name: str) -> Path:
        """The absolute path of a model's file, the first one of a split model. Raises KeyError."""
        return self._files[self._names[name]]

    def model_files(self, name: str) -> tuple[Path, ...]:
        """All files of the model itself: one, or every part of a split model. Raises KeyError."""
        return shard_files(self.model_file(name))

    def slots(self, name: str) -> int:
        """Slots that a replica of this model is started with. Raises KeyError."""
        return parallel_slots(self.models[self._names[name]], self.system.default_parallel)

    def idle_timeout(self, name: str) -> float | None:
        """Seconds of idling after which the model is unloaded; None = never. Raises KeyError.

        A value of the model's own counts even where `enable_idle_timeout` is off for the others.
        """
        own = self.models[self._names[name]].idle_timeout_sec
        if own is not None:
            return own
        return self.system.idle_timeout_sec if self.system.enable_idle_timeout else None

    def max_rss_mb(self, name: str) -> int | None:
        """MiB of RAM beyond which an idle replica of the model is started anew; None = never. Raises KeyError."""
        own = self.models[self._names[name]].max_rss_mb
        return self.system.max_rss_mb if own is None else own

    def exclusive_with(self, name: str) -> frozenset[str]:
        """Canonical names of the models that this one says it excludes. Raises KeyError."""
        return frozenset(self._names[other] for other in self.models[self._names[name]].exclusive_with)


def with_absolute_paths(system: SystemConfig, folder: Path, cwd: Path) -> SystemConfig:
    """Written paths are relative to `folder`, defaults to `cwd`."""
    paths = {
        name: absolute(path, folder if name in system.model_fields_set else cwd)
        for name in ("llama_server_path", "base_models_path", "state_dir")
        if (path := getattr(system, name)) is not None
    }
    return system.model_copy(update=paths)


def assemble(
    *,
    api: ApiConfig,
    system: SystemConfig,
    models: Mapping[str, ModelConfig | None],
    keys: Keys,
    folder: Path,
    source: Path | None = None,
    dotenv: Path | None = None,
    base_key: str = "system.base_models_path",
    problems: list[Problem] | None = None,
) -> Settings:
    """The last step of every way to settings: the checks that need all of them.

    Args:
        system: with absolute paths.
        models: None = broken; then `problems` says why.
        folder: of relative model paths where there is no base path.
        base_key: where the base path was written.
        problems: what was found before.

    Raises ConfigError with everything that is wrong.
    """
    problems = list(problems or ())
    catalog = build_catalog(models, system, folder, base_key, problems)
    problems += [*_preload_problems(system, catalog), *_exclusion_problems(catalog), *_replica_problems(catalog)]
    problems += [*_size_problems(api), *([] if api.log_prompts else _prompt_problems(catalog))]
    if problems:
        raise ConfigError(str(source or "settings"), problems)
    return Settings(
        api=api,
        system=system,
        models=MappingProxyType(catalog.models),
        source=source,
        dotenv=dotenv,
        keys=keys,
        notes=tuple(catalog.notes),
        warnings=tuple(exposed_files(api, keys, folder)),
        _names=MappingProxyType(catalog.names),
        _files=MappingProxyType(catalog.files),
    )


def _preload_problems(system: SystemConfig, catalog: Catalog) -> list[Problem]:
    known = list(catalog.names)
    return [
        Problem(
            key_path(("system", "preload_models", n)),
            f"no such model, got {shown(name)}",
            nearest(name, known, "models"),
        )
        for n, name in enumerate(system.preload_models)
        if name != "*" and name not in catalog.names
    ]


def _exclusion_problems(catalog: Catalog) -> list[Problem]:
    known = list(catalog.names)
    found = []
    for name, model in catalog.models.items():
        for n, other in enumerate(model.exclusive_with):
            where = key_path(("models", name, "exclusive_with", n))
            if other not in catalog.names:
                found.append(Problem(where, f"no such model, got {shown(other)}", nearest(other, known, "models")))
            elif catalog.names[other] == name:
                found.append(Problem(where, f"a model cannot exclude itself, got {shown(other)}"))
            elif model.pinned and (rival := catalog.models.get(catalog.names[other])) is not None and rival.pinned:
                message = (
                    f"both this model and {shown(other)} are pinned: the one that is loaded first shuts out the other"
                )
                found.append(Problem(where, message, "unpin one of them"))
    return found


def _prompt_problems(catalog: Catalog) -> list[Problem]:
    """Models whose llama-server would log what it is asked."""
    found = [
        (key_path(("models", name, place)), telling)
        for name, model in catalog.models.items()
        for place, telling in (("flags", telling_flag(model.flags)), ("env", telling_variable(model.env)))
    ]
    return [
        Problem(where, f"{telling} makes llama-server log prompts and answers", "allow it with api.log_prompts")
        for where, telling in found
        if telling
    ]


def _replica_problems(catalog: Catalog) -> list[Problem]:
    return [
        Problem(
            key_path(("models", name, "min_replicas")),
            f"expected at most max_replicas ({model.max_replicas}), got {model.min_replicas}",
            f"raise max_replicas to {model.min_replicas}, or lower min_replicas",
        )
        for name, model in catalog.models.items()
        if model.min_replicas > model.max_replicas
    ]


def _size_problems(api: ApiConfig) -> list[Problem]:
    if api.max_buffered_mb >= api.max_body_mb:
        return []
    message = f"expected at least max_body_mb ({api.max_body_mb}), got {api.max_buffered_mb}"
    return [Problem("api.max_buffered_mb", message, "one request of full size must fit")]
